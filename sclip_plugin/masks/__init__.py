"""Masks of a picture as data: where they come from, and what needs nothing but masks and labels."""

from . import folder, models, superpixels  # noqa: F401
from .base import MaskSource, id_map, masks_of_ids
from .registry import MASK_SOURCES, find_masks, list_mask_sources, masks_of, register_mask_source
from .vote import mask_vote

__all__ = [
    "MASK_SOURCES",
    "MaskSource",
    "find_masks",
    "id_map",
    "list_mask_sources",
    "mask_vote",
    "masks_of",
    "masks_of_ids",
    "register_mask_source",
]
