"""AIMv2 image towers of transformers: no CLS token, RMS norms, gated feed-forward networks, and a pool of one query.

A patch reaches the joint space by the value path of that pool, as with SigLIP: what its query would return if it
attended to this patch alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import BlockInput, Tower, resize_positions
from .layers import base_of, dtype_of, kernel_of, table_of
from .registry import register_tower
from .transformers import PatchedTransformersTrunk, TransformersBlockInput, mask_arguments


class Aimv2BlockInput(TransformersBlockInput):
    """An ``Aimv2EncoderLayer``."""

    @property
    def num_heads(self) -> int:
        return self.block.attention.num_heads

    @property
    def scale(self) -> float:
        return self.block.attention.scale

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.rms_norm1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return getattr(self.block.attention, name + "_proj")(x)

    def _out(self, merged: Tensor) -> Tensor:
        return self.block.attention.out_proj(merged)

    def norm2(self, tokens: Tensor) -> Tensor:
        return self.block.rms_norm2(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        return self.block.ffn(self.norm2(tokens))


@register_tower("aimv2")
class Aimv2Tower(Tower):
    """``embeddings``, ``encoder.layers``, ``rms_norm``, ``head``; above them ``visual_projection``."""

    models = "transformers: Aimv2Model, Aimv2VisionModel"
    patched = PatchedTransformersTrunk
    prefix_tokens = 0
    pools_patches = True

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.encoder.layers
        self.patch_size = kernel_of(trunk.embeddings.patch_embed)
        side = trunk.config.image_size // self.patch_size[0]
        self.native_grid = (side, side)

    @classmethod
    def find(cls, model: nn.Module) -> Aimv2Tower | None:
        trunk: Any = getattr(model, "vision_model", model)
        if not isinstance(base_of(getattr(getattr(trunk, "embeddings", None), "patch_embed", None)), nn.Conv2d):
            return None
        if not hasattr(trunk, "rms_norm") or not hasattr(trunk.encoder.layers[0], "rms_norm1"):
            return None
        mask_arguments(type(trunk.encoder.layers[0]))
        return cls(trunk, getattr(model, "visual_projection", None))

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        embeddings, grid = self.trunk.embeddings, self.grid(pixel_values)
        pixel_values = pixel_values.to(dtype_of(embeddings.patch_embed))
        if not hasattr(embeddings, "position_embedding"):
            return embeddings(pixel_values)  # sines and cosines, which it makes for any grid
        patches = embeddings.rms_norm(embeddings.patch_embed(pixel_values).flatten(2).transpose(1, 2))
        positions = table_of(embeddings.position_embedding)
        return patches + resize_positions(positions, self.native_grid, grid, position_resize).to(patches.dtype)

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return Aimv2BlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        output = block(tokens, **dict.fromkeys(mask_arguments(type(block))))
        return output[0] if isinstance(output, tuple) else output

    def project(self, tokens: Tensor) -> Tensor:
        tokens = self.trunk.rms_norm(tokens)
        if self.trunk.use_head:
            tokens = self.trunk.head.output_proj(self.trunk.head.v_proj(tokens))
        return tokens if self.projection is None else self.projection(tokens)

    def embedding(self, tokens: Tensor) -> Tensor:
        pooled = self.pooled(tokens)
        if pooled is None:
            return super().embedding(tokens)
        return pooled if self.projection is None else self.projection(pooled)

    def returned(self, tokens: Tensor) -> Tensor:
        return self.trunk.rms_norm(tokens)

    def pooled(self, tokens: Tensor) -> Tensor | None:
        return self.trunk.head(self.trunk.rms_norm(tokens)) if self.trunk.use_head else None
