"""Words and a picture in, masks out."""
