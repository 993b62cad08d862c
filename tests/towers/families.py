"""Tiny random models of the families whose image tower is more, or less, than a plain vision transformer."""

from __future__ import annotations

from torch import Tensor, nn

from .case import CASES, Case
from .layouts import AlphaTower, MoETower
from .models import TINY_VISION, encode_image, open_clip_joint, output_tokens, timm_joint, timm_patches  # noqa: F401

# Other blocks in OpenAI's layout --------------------------------------------------------------------------------------


def layout_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    return output_tokens(model, pixels) if "_sclip_patch" in model.__dict__ else model.tokens(pixels)[:, 1:]


def layout_cases() -> list[Case]:
    layout = dict(embedding=encode_image, patches=layout_patches, to_joint=open_clip_joint)
    return [Case("clip_moe", MoETower, **layout), Case("alpha_clip", AlphaTower, **layout)]


for case in layout_cases():
    CASES[case.name] = case
