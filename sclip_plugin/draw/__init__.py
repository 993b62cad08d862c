"""Pictures for people: overlays, heat maps, legends, sheets."""
