"""Where each framework keeps an image tower's parts: one file per framework, and the registry."""

from .base import BlockInput, Tower
from .registry import TOWERS, find_tower, list_towers, register_tower

from . import open_clip, timm, transformers  # noqa: F401, I001

__all__ = ["TOWERS", "BlockInput", "Tower", "find_tower", "list_towers", "register_tower"]
