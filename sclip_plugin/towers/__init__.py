"""Where each framework keeps an image tower's parts: one file per framework, and the registry."""

from . import (  # noqa: F401
    aimv2,
    convolutional,
    eva,
    naflex,
    naflexvit,
    open_clip,
    resnet,
    siglip,
    timm,
    transformers,
    vit,
)
from .base import BlockInput, PatchedTrunk, Tower
from .registry import TOWERS, find_tower, list_towers, register_tower

__all__ = ["TOWERS", "BlockInput", "PatchedTrunk", "Tower", "find_tower", "list_towers", "register_tower"]
