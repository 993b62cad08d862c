"""Image towers in the layout of OpenAI's CLIP: open_clip's VisionTransformer and OpenAI's ``clip`` itself.

Both name their parts alike (``conv1``, ``class_embedding``, ``ln_pre``, ``transformer.resblocks``, ``ln_post``,
``proj``). They differ in whether a block takes (batch, tokens, width) or (tokens, batch, width), and open_clip has
variants: layer scale, blocks with norms of q and k, the embedding as the mean of the patches (CLIPA).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, cat, nn

from .base import BlockInput, PatchedTrunk, Tower, resize_positions, take_intermediates
from .registry import register_tower


class OpenCLIPBlockInput(BlockInput):
    """A ``ResidualAttentionBlock``, whose attention is torch's, or open_clip's ``CustomResidualAttentionBlock``."""

    @property
    def num_heads(self) -> int:
        return self.block.attn.num_heads

    @property
    def scale(self) -> float:
        return self.block.attn.head_dim**-0.5

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.ln_1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        attention = self.block.attn
        width = attention.in_proj_weight.shape[1]
        rows = slice("qkv".index(name) * width, ("qkv".index(name) + 1) * width)
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
        return F.linear(x, attention.in_proj_weight[rows], bias)

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        return self._optional(self.block.attn, "ln_" + name, heads)

    def out(self, attended: Tensor) -> Tensor:
        head_scale = getattr(self.block.attn, "head_scale", None)
        return super().out(attended if head_scale is None else attended * head_scale)

    def _out(self, merged: Tensor) -> Tensor:
        merged = self.block.attn.out_proj(self._optional(self.block.attn, "ln_inner", merged))
        return self._optional(self.block, "ls_1", self._optional(self.block, "ln_attn", merged))

    def ffn(self, tokens: Tensor) -> Tensor:
        return self._optional(self.block, "ls_2", self.block.mlp(self.block.ln_2(tokens)))

    @staticmethod
    def _optional(module: nn.Module, name: str, tokens: Tensor) -> Tensor:
        return getattr(module, name)(tokens) if hasattr(module, name) else tokens


class PatchedOpenCLIPTrunk(PatchedTrunk):
    """``visual(pixels)``: the embedding, and with ``output_tokens`` the dense tokens, as the trunk returns them."""

    def forward(self, x: Tensor):
        tower = OpenCLIPTower(self)
        tokens, for_embedding = self._sclip_patch.dense_tokens(self, x)
        if getattr(self, "output_tokens", False):
            return tower.embedding(for_embedding), tower.returned(tokens)[:, 1:]
        return tower.embedding(for_embedding)

    def forward_intermediates(
        self,
        x: Tensor,
        indices=None,
        stop_early: bool = False,  # accepted for callers' sake
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        tower = OpenCLIPTower(self)
        states: list[Tensor] = []
        _, for_embedding = self._sclip_patch.dense_tokens(self, x, states)
        if normalize_intermediates:
            states = [tower.trunk.ln_post(tokens) for tokens in states]
        patches, prefix = take_intermediates(states, indices, 1, tower.grid(x), output_fmt)
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": patches}
        if output_extra_tokens:
            output["image_intermediates_prefix"] = prefix
        if not intermediates_only:
            output["image_features"] = tower.embedding(for_embedding)
        return output


@register_tower("open_clip")
class OpenCLIPTower(Tower):
    """open_clip's CLIP, CustomTextCLIP and VisionTransformer; OpenAI's CLIP and its VisionTransformer."""

    models = "open_clip: CLIP and CustomTextCLIP with a VisionTransformer (not CoCa); OpenAI's clip with a ViT"
    patched = PatchedOpenCLIPTrunk

    def __init__(self, trunk, projection=None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.transformer.resblocks
        self.patch_size = tuple(trunk.conv1.kernel_size)
        side = round((trunk.positional_embedding.shape[0] - 1) ** 0.5)
        self.native_grid = tuple(getattr(trunk, "grid_size", (side, side)))
        self.pools_patches = getattr(trunk, "pool_type", "tok") == "avg"

    @classmethod
    def find(cls, model: nn.Module) -> OpenCLIPTower | None:
        trunk: Any = getattr(model, "visual", model)
        if not all(hasattr(trunk, name) for name in ("conv1", "class_embedding", "transformer", "ln_post", "proj")):
            return None
        if getattr(trunk, "attn_pool", None) is not None or getattr(trunk, "pool_type", "tok") not in ("tok", "avg"):
            return None  # CoCa: its pooling attends with 256 queries, so its tokens are no patches
        attention = getattr(trunk.transformer.resblocks[0], "attn", None)
        if not hasattr(attention, "in_proj_weight") or getattr(attention, "scaled_cosine", False):
            return None
        return cls(trunk)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        trunk = self.trunk
        patches = trunk.conv1(pixel_values.to(trunk.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        cls_token = trunk.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        positions = resize_positions(
            trunk.positional_embedding, self.native_grid, self.grid(pixel_values), position_resize
        )
        return trunk.ln_pre(cat([cls_token, patches], dim=1) + positions.to(patches.dtype))

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return OpenCLIPBlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        if getattr(self.trunk.transformer, "batch_first", False):
            return block(tokens)
        return block(tokens.transpose(0, 1)).transpose(0, 1)

    def project(self, tokens: Tensor) -> Tensor:
        tokens = self.trunk.ln_post(tokens)
        return tokens if self.trunk.proj is None else tokens @ self.trunk.proj.to(tokens.dtype)

    def returned(self, tokens: Tensor) -> Tensor:
        """Tokens as the trunk's forward returns them: after post-norm, unless that belongs to the pooled embedding."""
        return tokens if getattr(self.trunk, "final_ln_after_pool", False) else self.trunk.ln_post(tokens)

    def embedding(self, tokens: Tensor) -> Tensor:
        """The image embedding, (B, D), as the trunk's own forward pools it."""
        if not self.pools_patches:
            return self.project(tokens[:, 0])
        pooled = self.returned(tokens)[:, 1:].mean(dim=1)
        pooled = self.trunk.ln_post(pooled) if getattr(self.trunk, "final_ln_after_pool", False) else pooled
        return pooled if self.trunk.proj is None else pooled @ self.trunk.proj.to(pooled.dtype)
