"""Vision transformers of timm that are CLIP image towers, alone or inside open_clip's ``TimmModel``.

With a CLS token the embedding is ``head(fc_norm(norm(tokens)))`` of that token. SigLIP towers have none and pool by
attention; their patches take the value path of the pooling head, as MaskCLIP does in CLIP's last block.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, cat, nn

from ..dense import dense_tokens
from .base import BlockInput, Tower, resize_positions
from .registry import register_tower


class TimmBlockInput(BlockInput):
    """timm's ``Block``: one qkv projection, optional norms of q and k, optional layer scale."""

    @property
    def num_heads(self) -> int:
        return self.block.attn.num_heads

    @property
    def scale(self) -> float:
        return self.block.attn.scale

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.norm1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        qkv = self.block.attn.qkv
        width = qkv.out_features // 3
        rows = slice("qkv".index(name) * width, ("qkv".index(name) + 1) * width)
        return F.linear(x, qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        norm = getattr(self.block.attn, name + "_norm", None)
        return heads if norm is None else norm(heads)

    def _out(self, merged: Tensor) -> Tensor:
        attention = self.block.attn
        merged = attention.norm(merged) if hasattr(attention, "norm") else merged
        return self.block.ls1(attention.proj(merged))

    def ffn(self, tokens: Tensor) -> Tensor:
        return self.block.ls2(self.block.mlp(self.block.norm2(tokens)))


class PatchedTimmTrunk:
    """``forward_features``: the dense tokens after the final norm. ``forward`` goes on from them as it always did."""

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a patched model takes no attn_mask; call sclip_plugin.restore(model) to use one.")
        patch = self._sclip_patch  # type: ignore[attr-defined]
        tokens = dense_tokens(TimmTower(self), x, patch.method, keep_cls=patch.keep_cls)
        return self.norm(tokens)  # type: ignore[attr-defined]


@register_tower("timm")
class TimmTower(Tower):
    """timm's VisionTransformer with learned positions, with and without a projecting head."""

    models = "timm: VisionTransformer (vit_*_clip_*, vit_*_siglip_*), alone or in open_clip"
    block_input = TimmBlockInput
    patched = PatchedTimmTrunk

    def __init__(self, trunk, projection=None) -> None:
        self.trunk = trunk
        self.projection = projection
        self.blocks = trunk.blocks
        self.patch_size = tuple(trunk.patch_embed.proj.kernel_size)
        self.native_grid = tuple(trunk.patch_embed.grid_size)
        self.prefix_tokens = trunk.num_prefix_tokens
        self.keeps_embedding = trunk.attn_pool is None and trunk.global_pool in ("token", "")

    @classmethod
    def find(cls, model: nn.Module) -> TimmTower | None:
        visual = getattr(model, "visual", model)
        trunk = getattr(visual, "trunk", visual)
        if not all(hasattr(trunk, name) for name in ("patch_embed", "blocks", "norm_pre", "attn_pool", "fc_norm")):
            return None
        if trunk.pos_embed is None or not hasattr(getattr(trunk.blocks[0], "attn", None), "qkv"):
            return None
        if getattr(trunk.blocks[0].attn, "gate", None) is not None or hasattr(getattr(visual, "head", None), "pool"):
            return None
        return cls(trunk, visual.head if trunk is not visual else None)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        trunk, grid = self.trunk, self.grid(pixel_values)
        patches = trunk.patch_embed.proj(pixel_values.to(trunk.patch_embed.proj.weight.dtype))
        patches = trunk.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        positions = resize_positions(trunk.pos_embed[0], self.native_grid, grid, position_resize).to(patches.dtype)
        prefix = [
            token.to(patches.dtype).expand(patches.shape[0], -1, -1)
            for token in (trunk.cls_token, trunk.reg_token)
            if token is not None
        ]
        if trunk.no_embed_class:
            tokens = cat([*prefix, patches + positions], dim=1)
        else:
            tokens = cat([*prefix, patches], dim=1) + positions
        return trunk.norm_pre(tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return block(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        tokens = trunk.norm(tokens)
        if trunk.attn_pool is not None:
            pool = trunk.attn_pool
            width = pool.kv.out_features // 2
            value = F.linear(tokens, pool.kv.weight[width:], None if pool.kv.bias is None else pool.kv.bias[width:])
            tokens = pool.proj(value)
            tokens = tokens + pool.mlp(pool.norm(tokens)) if pool.mlp is not None else tokens
        tokens = trunk.head(trunk.fc_norm(tokens))
        return tokens if self.projection is None else self.projection(tokens)
