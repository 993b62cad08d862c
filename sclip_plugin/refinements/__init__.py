"""Rules on a label map that is decided: one file a paper, and the registry."""

from . import sam  # noqa: F401
from .base import LabelledPicture, Refinement
from .registry import REFINEMENTS, list_refinements, make_refinement, register_refinement

__all__ = [
    "REFINEMENTS",
    "LabelledPicture",
    "Refinement",
    "list_refinements",
    "make_refinement",
    "register_refinement",
]
