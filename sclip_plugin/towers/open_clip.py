"""Image towers in the layout of OpenAI's CLIP: open_clip's VisionTransformer and OpenAI's ``clip`` itself.

Both name their parts alike (``conv1``, ``class_embedding``, ``ln_pre``, ``transformer.resblocks``, ``ln_post``, ``proj``).
They differ in whether a block takes (batch, tokens, width) or (tokens, batch, width).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, cat, nn

from ..dense import dense_tokens
from .base import BlockInput, Tower, resize_positions
from .registry import register_tower


class OpenCLIPBlockInput(BlockInput):
    """A ``ResidualAttentionBlock``: `torch.nn.MultiheadAttention` with one in-projection; layer scale where it has it."""

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
        third = "qkv".index(name)
        rows = slice(third * attention.embed_dim, (third + 1) * attention.embed_dim)
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
        return F.linear(x, attention.in_proj_weight[rows], bias)

    def _out(self, merged: Tensor) -> Tensor:
        return self._layer_scale("ls_1", self.block.attn.out_proj(merged))

    def ffn(self, tokens: Tensor) -> Tensor:
        return self._layer_scale("ls_2", self.block.mlp(self.block.ln_2(tokens)))

    def _layer_scale(self, name: str, tokens: Tensor) -> Tensor:
        return getattr(self.block, name)(tokens) if hasattr(self.block, name) else tokens


class PatchedOpenCLIPTrunk:
    """``visual(pixels)``: the pooled embedding, and (with ``output_tokens``) the dense tokens after post-norm."""

    def forward(self, x: Tensor):
        patch = self._sclip_patch  # type: ignore[attr-defined]
        tower = OpenCLIPTower(self)
        tokens = dense_tokens(tower, x, patch.method, keep_cls=patch.keep_cls)
        tokens = self.ln_post(tokens)  # type: ignore[attr-defined]
        pooled = tokens[:, 0]
        if self.proj is not None:  # type: ignore[attr-defined]
            pooled = pooled @ self.proj  # type: ignore[attr-defined]
        return (pooled, tokens[:, 1:]) if getattr(self, "output_tokens", False) else pooled


@register_tower("open_clip")
class OpenCLIPTower(Tower):
    """open_clip's CLIP, CustomTextCLIP and VisionTransformer; OpenAI's CLIP and its VisionTransformer."""

    models = "open_clip: CLIP and CustomTextCLIP with a VisionTransformer; OpenAI's clip with a ViT"
    block_input = OpenCLIPBlockInput
    patched = PatchedOpenCLIPTrunk

    def __init__(self, trunk, projection=None) -> None:
        self.trunk = trunk
        self.blocks = trunk.transformer.resblocks
        self.patch_size = tuple(trunk.conv1.kernel_size)
        side = round((trunk.positional_embedding.shape[0] - 1) ** 0.5)
        self.native_grid = getattr(trunk, "grid_size", (side, side))

    @classmethod
    def find(cls, model: nn.Module) -> OpenCLIPTower | None:
        trunk = getattr(model, "visual", model)
        if not all(hasattr(trunk, name) for name in ("conv1", "class_embedding", "transformer", "ln_post", "proj")):
            return None
        if getattr(trunk, "attn_pool", None) is not None or getattr(trunk, "pool_type", "tok") != "tok":
            return None  # CoCa's attention pooling and average pooling do not read the embedding off the CLS token
        if not isinstance(getattr(trunk.transformer.resblocks[0], "attn", None), nn.MultiheadAttention):
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

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        if getattr(self.trunk.transformer, "batch_first", False):
            return block(tokens)
        return block(tokens.transpose(0, 1)).transpose(0, 1)

    def project(self, tokens: Tensor) -> Tensor:
        tokens = self.trunk.ln_post(tokens)
        return tokens if self.trunk.proj is None else tokens @ self.trunk.proj.to(tokens.dtype)
