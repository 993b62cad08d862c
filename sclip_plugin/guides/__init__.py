"""Outside vision models: how each wants its picture, and what it gives on its own grid; one file per architecture."""

from . import radio, sam, sam2, sam3, segment_anything, vit  # noqa: F401
from .base import Guide, GuideView
from .registry import GUIDES, as_guide, find_guide, list_guides, load_guide, register_guide

__all__ = ["GUIDES", "Guide", "GuideView", "as_guide", "find_guide", "list_guides", "load_guide", "register_guide"]
