"""Convolutional image towers of timm: ConvNeXt CLIPs, MobileCLIP's FastViTs, ResNets under average pooling.

They have no last block with queries, keys and values, so a place's feature is what the tower's own head makes of the
last map there, as if the picture were that place (FC-CLIP, arXiv 2308.02487): `vanilla` alone. Where the head is linear
(FastViT) the mean of these features is the image embedding; ConvNeXt's normalises first.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import BlockInput, PatchedTrunk, Tower, pair
from .registry import register_tower

FAMILIES = {"ConvNeXt", "FastVit", "ByobNet"}


class MapInput(BlockInput):
    """The last map's places, (B, N, C), after all blocks."""

    @property
    def num_heads(self) -> int:
        return 1

    @property
    def scale(self) -> float:
        return 1.0

    def _norm1(self, tokens: Tensor) -> Tensor:
        return tokens

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x

    def _out(self, merged: Tensor) -> Tensor:
        return merged

    def ffn(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(tokens.shape)


class PatchedConvolutionalTrunk(PatchedTrunk):
    """The trunk's own forward: under `vanilla` its ``forward_features`` are the dense tokens already."""


@register_tower("convolutional")
class ConvolutionalTower(Tower):
    """A trunk with ``stem``, ``stages`` and a ``head`` that pools a (B, C, h, w) map."""

    models = (
        "convolutional, with method='vanilla': timm's ConvNeXt and FastViT (MobileCLIP-S), resnet*_clip_gap, "
        "alone or in open_clip"
    )
    patched = PatchedConvolutionalTrunk
    prefix_tokens = 0
    pools_patches = True
    attends = False
    calls_blocks = False

    def __init__(
        self, trunk: Any, projection: nn.Module | None = None, size: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__(trunk, projection)
        self.blocks = [trunk.stages[-1]]
        stride = trunk.feature_info[-1]["reduction"]
        self.patch_size = (stride, stride)
        height, width = pair(size or getattr(trunk, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:])
        self.native_grid = (height // stride, width // stride)

    @classmethod
    def find(cls, model: nn.Module) -> ConvolutionalTower | None:
        visual: Any = getattr(model, "visual", model)
        trunk = getattr(visual, "trunk", visual)
        if not FAMILIES & {base.__name__ for base in type(trunk).__mro__}:
            return None
        pool = getattr(getattr(trunk, "head", None), "global_pool", None)
        if pool is None or pool.is_identity() or not hasattr(trunk, "stages"):
            return None  # a pool above the trunk, or an attention pool
        return cls(trunk, visual.head, visual.image_size) if trunk is not visual else cls(trunk)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        self.grid(pixel_values)
        pixel_values = pixel_values.to(next(self.trunk.parameters(), pixel_values).dtype)  # a replica has none
        return self.trunk.forward_features(pixel_values).flatten(2).transpose(1, 2)

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return MapInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return tokens

    def project(self, tokens: Tensor) -> Tensor:
        places = self.trunk.forward_head(tokens.reshape(-1, tokens.shape[-1], 1, 1))
        places = places.unflatten(0, tokens.shape[:2])
        return places if self.projection is None else self.projection(places)

    def embedding(self, tokens: Tensor) -> Tensor:
        return self.project(tokens.mean(dim=1, keepdim=True))[:, 0]
