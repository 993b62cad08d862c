"""What the authors' outside models gave on the golden pictures (see golden/README.md)."""

from __future__ import annotations

import golden
import pytest
import torch
from outside_models import segment_anything, timm_dino, transformers_model

from sclip_plugin.defaults import CLIP_MEAN, CLIP_STD
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.guides import as_guide, find_guide

pytestmark = pytest.mark.usefixtures("without_gradients")

KINDS = {"dino8": None, "dino16": None, "dinov2": None, "mae": "mae", "sam": None}


def shown(size: str) -> torch.Tensor:
    """The first golden picture, which is normalised for CLIP, back to 0 to 1."""
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    return golden.arrays("inputs")[f"pixels.{size}"][:1] * std + mean


def vfm(name: str, size: str) -> torch.Tensor:
    return golden.arrays("ProxyCLIP")[f"{name}.{size}.vfm"]


@pytest.mark.parametrize("name", ["dino8", "dino16", "dinov2", "mae"])
def test_a_vit_of_transformers(name: str):
    seen = find_guide(transformers_model(name), KINDS[name]).look(shown("112x112"))
    assert golden.relative_difference(seen.tokens.mT.unflatten(2, seen.grid), vfm(name, "112x112")) < 1e-5


@pytest.mark.parametrize("name", ["dino8", "dino16"])
def test_dino_of_timm(name: str):
    seen = find_guide(timm_dino(name)).look(shown("112x112"))
    assert golden.relative_difference(seen.tokens.mT.unflatten(2, seen.grid), vfm(name, "112x112")) < 1e-5


@pytest.mark.parametrize("layout", ["transformers", "segment_anything"])
def test_sam(layout: str):
    model = transformers_model("sam") if layout == "transformers" else segment_anything()
    seen = as_guide(model, device=torch.device("cpu"), dtype=torch.float32).look(shown("112x112"))
    features = seen.tokens.mT.unflatten(2, seen.grid)
    assert (
        golden.relative_difference(features[..., ::4, ::4], golden.arrays("ProxyCLIP")["sam.112x112.vfm.every4"]) < 1e-5
    )


def test_sam_in_its_own_layout_shows_no_last_block():
    seen = find_guide(segment_anything()).look(shown("112x112"))
    for ask in (lambda: seen.heads("v"), lambda: seen.attention(0, slice(0, 1))):
        with pytest.raises(UnsupportedModelError, match="expected transformers' SamModel"):
            ask()
