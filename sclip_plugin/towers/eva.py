"""EVA and EVA-02 towers of timm (EVA-CLIP in open_clip), and the Perception Encoder, built from the same parts there.

They are timm vision transformers with other blocks: q and k are turned by rotary positions, a norm may stand before the
output projection, the projections may be separate and have no bias for k.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .layers import linear_rows, weight_of
from .registry import register_tower
from .timm import TimmBlockInput, TimmTower, find_timm_trunk


class EvaBlockInput(TimmBlockInput):
    """timm's ``EvaBlock`` and ``EvaBlockPostNorm`` (EVA-02-E); ``rotations`` (N, 2 d) turn q and k of the N patches."""

    def __init__(self, block: nn.Module, tokens: Tensor, rotations: Tensor | None = None) -> None:
        super().__init__(block, tokens)
        self.rotations = rotations
        # Post-norm: norm1 and norm2 stand behind attention and MLP, inside the residual.
        self.post_norm = not hasattr(block, "gamma_1")

    def at(self, tokens: Tensor) -> EvaBlockInput:
        return type(self)(self.block, tokens, self.rotations)

    def _norm1(self, tokens: Tensor) -> Tensor:
        return tokens if self.post_norm else self.block.norm1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        attention = self.block.attn
        if attention.qkv is None:
            return getattr(attention, name + "_proj")(x)
        if getattr(attention, "q_bias", None) is None:
            return self._fused(attention.qkv, name, x)
        bias = getattr(attention, name + "_bias")
        if getattr(attention, "qkv_bias_separate", False):
            return self._fused(attention.qkv, name, x) + bias
        # With biases of its own timm reads the weight and never calls the layer: adapters take no part.
        return linear_rows(x, weight_of(attention.qkv), None, "qkv".index(name), 3) + bias

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        if name not in ("q", "k"):
            return heads
        attention = self.block.attn
        heads = getattr(attention, name + "_norm")(heads) if hasattr(attention, name + "_norm") else heads
        if self.rotations is None:
            return heads
        from timm.layers import apply_rot_embed_cat

        prefix = heads.shape[2] - self.rotations.shape[0]
        half = {"half": True} if getattr(attention, "rotate_half", False) else {}
        turned = apply_rot_embed_cat(heads[:, :, prefix:], self.rotations, **half)
        return torch.cat([heads[:, :, :prefix], turned.to(heads.dtype)], dim=2)

    def _out(self, merged: Tensor) -> Tensor:
        attention = self.block.attn
        merged = attention.proj(attention.norm(merged))
        return self.block.norm1(merged) if self.post_norm else self._layer_scale("gamma_1", merged)

    def norm2(self, tokens: Tensor) -> Tensor:
        return tokens if self.post_norm else self.block.norm2(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        computed = self.block.mlp(self.norm2(tokens))
        return self.block.norm2(computed) if self.post_norm else self._layer_scale("gamma_2", computed)

    def _layer_scale(self, name: str, tokens: Tensor) -> Tensor:
        gamma = getattr(self.block, name)
        return tokens if gamma is None else gamma * tokens


@register_tower("eva")
class EvaTower(TimmTower):
    """timm's ``Eva``: learned positions, rotary positions, or both."""

    models = "timm: Eva (eva02_*_clip_*, eva_giant_*_clip_*, vit_pe_core_*), alone or in open_clip"

    def __init__(self, trunk: Any, projection: nn.Module | None = None, rotations: Tensor | None = None) -> None:
        super().__init__(trunk, projection)
        self.rotations = rotations

    @classmethod
    def find(cls, model: nn.Module) -> EvaTower | None:
        trunk, projection = find_timm_trunk(model)
        if trunk is None or not hasattr(trunk, "rope") or getattr(trunk, "rope_mixed", False):
            return None
        if not hasattr(trunk.blocks[0].attn, "qkv") or getattr(trunk.blocks[0].attn, "num_kv_groups", 1) != 1:
            return None
        if trunk.rope is not None and not hasattr(trunk.rope, "ref_feat_shape"):
            return None  # rotations that depend on more than the grid
        return cls(trunk, projection)

    def at_grid(self, grid: tuple[int, int]) -> EvaTower:
        rope = self.trunk.rope
        if rope is None:
            return self
        is_open = not all(isinstance(side, int) for side in grid)  # to torch.export, which shall not compare sizes
        native = not is_open and tuple(grid) == self.native_grid and rope.pos_embed is not None
        return EvaTower(self.trunk, self.projection, rope.get_embed() if native else self._rotations(grid))

    def _rotations(self, grid: tuple[int, int]) -> Tensor:
        """The trunk's rotary table for another grid: its coordinates span what the trained grid spanned."""
        from timm.layers import build_rotary_pos_embed

        rope: Any = self.trunk.rope
        # Releases differ in which of these they know; a table is asked for what its release's builder takes.
        names = ("max_res", "temperature", "linear_bands", "in_pixels", "grid_offset", "grid_indexing", "rotate_half")
        known = {name: getattr(rope, name) for name in names if hasattr(rope, name)}
        device = weight_of(self.trunk.patch_embed.proj).device
        tables = build_rotary_pos_embed(
            list(grid), dim=rope.dim, ref_feat_shape=rope.ref_feat_shape, device=device, **known
        )
        return torch.cat(tables, dim=-1)

    def block_input(self, block: nn.Module, tokens: Tensor) -> EvaBlockInput:
        return EvaBlockInput(block, tokens, self.rotations)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return block(tokens, rope=self.rotations)
