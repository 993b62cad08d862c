"""Small models for tests of methods."""

from __future__ import annotations

from functools import cache

import golden
import torch
from torch import nn

from sclip_plugin.methods import make_method
from sclip_plugin.methods.base import Method

TEXT = golden.arrays("SCLIP")["text_bank"]

# Each method of this folder's tests, ResCLIP with each of its parts.
METHODS: dict[str, Method] = {
    "gem": make_method("gem"),
    "surgery": make_method("surgery"),
    "excel": make_method("excel"),
    "itaclip": make_method("itaclip"),
    "scclip": make_method("scclip"),
    "pearl": make_method("pearl"),
    "resclip.rcs": make_method("resclip", {"sfr": None}),
    "resclip.sfr": make_method("resclip", {"rcs": None, "text": TEXT}),
    "resclip": make_method("resclip", {"text": TEXT}),
}


@cache
def golden_model() -> nn.Module:
    """The golden checkpoint, for tests that only read it."""
    return golden.model()


@cache
def random_model(depth: int) -> nn.Module:
    """A CLIP image tower of that many blocks with random weights; patch 8, native grid 4 x 4, joint dimension 64."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=depth, num_attention_heads=2,
        image_size=32, patch_size=8, projection_dim=64,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


@cache
def tower_without_cls() -> nn.Module:
    """A SigLIP image tower: no CLS token, the embedding pooled by attention; patch 8, native grid 4 x 4."""
    import timm

    torch.manual_seed(0)
    tower = timm.create_model(
        "vit_base_patch16_siglip_224", img_size=32, patch_size=8, embed_dim=64, num_heads=2, num_classes=0
    )
    return tower.eval().requires_grad_(False)


def pixels(*size: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
