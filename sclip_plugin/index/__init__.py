"""A collection of pictures on disk, reduced to what search by words needs: which pictures hold them, and where."""

from .collection import Index
from .results import Hit

__all__ = ["Hit", "Index"]
