"""What a visitor may ask for, and what is made of what they send: no path and no URL of theirs is ever opened."""

from __future__ import annotations

import io
from dataclasses import dataclass

import PIL.Image

from sclip_plugin.errors import LabelError, PictureError
from sclip_plugin.imaging.pictures import read_picture
from sclip_plugin.text.files import split_labels


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        megabytes: of a request.
        megapixels: of a picture.
        names: in a question, synonyms too.
        characters: in a name.
        kept: encoded pictures; the least recently asked goes first.
        waiting: requests that wait for the model; more are answered 503.
        together: pictures that go through the tower at once.
        seconds: until an answer is 504.
    """

    megabytes: float = 20
    megapixels: float = 24
    names: int = 200
    characters: int = 100
    kept: int = 32
    waiting: int = 64
    together: int = 16
    seconds: float = 60


def words_of(text: str, bounds: Limits) -> list[list[str]]:
    """Classes, each a list of names, from ``"cat, sofa|couch"``: never a file of labels.

    Raises:
        LabelError: none, too many, or too long.
    """
    classes = split_labels(text)
    names = [name for names in classes for name in names]
    if not names:
        raise LabelError('labels holds no names; expected some such as "cat, remote control, sofa|couch".')
    if len(names) > bounds.names or max(map(len, names)) > bounds.characters:
        raise LabelError(f"labels may hold {bounds.names} names, of {bounds.characters} characters each.")
    return classes


def picture_of(data: bytes, bounds: Limits) -> PIL.Image.Image:
    """A picture, RGB, from a file's bytes.

    Raises:
        PictureError: none that can be read, or too large a one.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception:  # whatever broken bytes make of Pillow's readers; `read_picture` says it in its own words
        width = height = 0
    if width * height > bounds.megapixels * 1e6:
        raise PictureError(f"the picture has {width} x {height} pixels; {bounds.megapixels:g} million are read.")
    return read_picture(io.BytesIO(data), paths=False)
