"""Image towers in the layout of OpenAI's CLIP: open_clip's VisionTransformer and OpenAI's ``clip`` itself.

Both name their parts alike (``conv1``, ``class_embedding``, ``ln_pre``, ``transformer.resblocks``, ``ln_post``,
``proj``). They differ in whether a block takes (batch, tokens, width) or (tokens, batch, width), and open_clip has
variants: layer scale, blocks with norms of q and k, the embedding as the mean of the patches (CLIPA). Long-CLIP has
this layout; CLIP-MoE has experts in place of the last blocks' MLPs; Alpha-CLIP takes a fourth channel, what to look at.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, cat, nn

from .base import BlockInput, PatchedTrunk, Tower, pair, resize_positions, take_intermediates
from .layers import Projections, dtype_of, is_multihead, kernel_of, linear_rows, projections_of
from .registry import register_tower

ALL_OF_IT = (1 - 0.5) / 0.26
"""Alpha-CLIP's alpha of 1, the whole picture, normalised as its own code does."""


class OpenCLIPBlockInput(BlockInput):
    """A ``ResidualAttentionBlock``, whose attention is torch's, or open_clip's ``CustomResidualAttentionBlock``."""

    _multihead: Projections | None = None

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
        if isinstance(getattr(attention, "in_proj", None), nn.Module):  # Alpha-CLIP's, where torch has two parameters
            return self._fused(attention.in_proj, name, x)
        if is_multihead(attention):
            return self._projections().part(x, name)
        return linear_rows(x, attention.in_proj_weight, attention.in_proj_bias, "qkv".index(name), 3)

    def _projections(self) -> Projections:
        if self._multihead is None:
            self._multihead = projections_of(self.block.attn, self.x)
        return self._multihead

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        return self._optional(self.block.attn, "ln_" + name, heads)

    def out(self, attended: Tensor) -> Tensor:
        head_scale = getattr(self.block.attn, "head_scale", None)
        return super().out(attended if head_scale is None else attended * head_scale)

    def _out(self, merged: Tensor) -> Tensor:
        if is_multihead(self.block.attn):
            merged = self._projections().out(merged)
        else:
            merged = self.block.attn.out_proj(self._optional(self.block.attn, "ln_inner", merged))
        return self._optional(self.block, "ls_1", self._optional(self.block, "ln_attn", merged))

    def norm2(self, tokens: Tensor) -> Tensor:
        return self.block.ln_2(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        x = self.norm2(tokens)
        computed = self._experts(x) if hasattr(self.block, "experts") else self.block.mlp(x)
        return self._optional(self.block, "ls_2", computed)

    def _experts(self, x: Tensor) -> Tensor:
        """CLIP-MoE's mixture: the ``top_k`` experts that the gate likes best, by their shares of its softmax."""
        shares = self.block.gate(x).float().softmax(dim=-1)
        best, index = shares.topk(self.block.top_k, dim=-1)
        weights = torch.zeros_like(shares).scatter(-1, index, best / best.sum(dim=-1, keepdim=True)).to(x.dtype)
        return sum(weights[..., e, None] * expert(x) for e, expert in enumerate(self.block.experts))

    @staticmethod
    def _optional(module: nn.Module, name: str, tokens: Tensor) -> Tensor:
        return getattr(module, name)(tokens) if hasattr(module, name) else tokens


class PatchedOpenCLIPTrunk(PatchedTrunk):
    """``visual(pixels)``: the embedding, and with ``output_tokens`` the dense tokens, as the trunk returns them."""

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Any:
        tower = OpenCLIPTower(self)
        tokens, for_embedding = self._sclip_patch.dense_tokens(self, x if alpha is None else cat([x, alpha], dim=1))
        embedding = tower.embedding(for_embedding)
        if getattr(self, "output_tokens", False):
            return embedding, tower.returned(tokens)[:, 1:]
        # CLIP-MoE returns its routers' logits too, which its loss needs; a patched last block has none.
        return (embedding, None) if getattr(self, "MoE_args", None) else embedding

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
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

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.transformer.resblocks
        self.patch_size = kernel_of(trunk.conv1)
        side = math.isqrt(int(trunk.positional_embedding.shape[0]) - 1)
        self.native_grid = pair(getattr(trunk, "grid_size", side))
        self.native_size = pair(getattr(trunk, "image_size", None) or trunk.input_resolution)
        self.pools_patches = getattr(trunk, "pool_type", "tok") == "avg"
        self.takes_alpha = hasattr(trunk, "conv1_alpha")

    @classmethod
    def find(cls, model: nn.Module) -> OpenCLIPTower | None:
        trunk: Any = getattr(model, "visual", model)
        if not all(hasattr(trunk, name) for name in ("conv1", "class_embedding", "transformer", "ln_post", "proj")):
            return None
        if getattr(trunk, "attn_pool", None) is not None or getattr(trunk, "pool_type", "tok") not in ("tok", "avg"):
            return None  # CoCa: its pooling attends with 256 queries, so its tokens are no patches
        attention = getattr(trunk.transformer.resblocks[0], "attn", None)
        if not any(hasattr(attention, name) for name in ("in_proj_weight", "in_proj")):
            return None
        if getattr(attention, "scaled_cosine", False):
            return None
        return cls(trunk)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        trunk = self.trunk
        pixel_values = pixel_values.to(dtype_of(trunk.conv1))
        patches = trunk.conv1(pixel_values[:, :3])
        if self.takes_alpha:
            patches = patches + trunk.conv1_alpha(
                pixel_values[:, 3:] if pixel_values.shape[1] > 3 else torch.full_like(pixel_values[:, :1], ALL_OF_IT)
            )
        patches = patches.flatten(2).transpose(1, 2)
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
        output = block(tokens.transpose(0, 1))  # with CLIP-MoE (tokens, the router's logits)
        return (output[0] if isinstance(output, tuple) else output).transpose(0, 1)

    def project(self, tokens: Tensor) -> Tensor:
        return self.project_unnormed(self.trunk.ln_post(tokens))

    def project_unnormed(self, tokens: Tensor) -> Tensor:
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
