"""SAM (arXiv 2304.02643) as a guide: transformers' SamModel, or its image encoder alone.

A window is stretched to SAM's square, as ProxyCLIP does.

A last block's attention has J x 4096 x 4096 entries (0.8 GB for ViT-B in single precision). It is never formed: global
blocks run head by head, in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Guide, Seen, stretched
from .registry import register_guide

ROWS_AT_ONCE = 1024


class SamBlock:
    """A block with global attention and the tokens that enter it, (B, a, b, C), as q, k, v and relative positions."""

    def __init__(self, layer: Any, tokens: Tensor) -> None:
        self.layer, self.tokens = layer, tokens
        self.heads_count = layer.attn.num_attention_heads

    @cached_property
    def qkv(self) -> Tensor:
        """(3, B, J, n, d)."""
        batch, a, b, _ = self.tokens.shape
        qkv = self.layer.attn.qkv(self.layer.layer_norm1(self.tokens))
        return qkv.reshape(batch, a * b, 3, self.heads_count, -1).permute(2, 0, 3, 1, 4)

    def position_bias(self, head: int, rows: slice) -> Tensor | None:
        """What relative positions add to the scores of some rows, (B, rows, n); computed from q before its scale."""
        attention = self.layer.attn
        if not attention.use_rel_pos:
            return None
        a, b = self.tokens.shape[1:3]
        q = self.qkv[0][:, head].unflatten(1, (a, b))
        along_rows = torch.einsum("nabc,akc->nabk", q, attention.get_rel_pos(a, a, attention.rel_pos_h).to(q.dtype))
        along_columns = torch.einsum("nabc,bkc->nabk", q, attention.get_rel_pos(b, b, attention.rel_pos_w).to(q.dtype))
        first, second = along_rows.flatten(1, 2)[:, rows], along_columns.flatten(1, 2)[:, rows]
        return (first[..., None] + second[..., None, :]).flatten(2)

    def attention(self, head: int, rows: slice) -> Tensor:
        """Rows of one head's attention after the softmax, in single precision: (B, rows, n)."""
        q, k, _ = (part[:, head] for part in self.qkv)
        scores = (q[:, rows] * self.layer.attn.scale).float() @ k.float().mT
        bias = self.position_bias(head, rows)
        return (scores if bias is None else scores + bias).softmax(dim=-1)

    def run(self) -> Tensor:
        """The tokens that leave the block."""
        q, k, v = self.qkv
        batch, a, b, width = self.tokens.shape
        attended = torch.empty(batch, a * b, self.heads_count, v.shape[-1], dtype=v.dtype, device=v.device)
        for head in range(self.heads_count):
            for rows in row_blocks(a * b):
                attended[:, rows, head] = F.scaled_dot_product_attention(
                    q[:, head, rows],
                    k[:, head],
                    v[:, head],
                    attn_mask=self.position_bias(head, rows),
                    scale=self.layer.attn.scale,
                )
        tokens = self.tokens + self.layer.attn.proj(attended.flatten(2).view(batch, a, b, width))
        return tokens + self.layer.mlp(self.layer.layer_norm2(tokens))


def row_blocks(count: int, at_once: int = ROWS_AT_ONCE) -> Iterator[slice]:
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


class SamSeen(Seen):
    """SAM's last block with the tokens that enter it."""

    def __init__(self, encoder: Any, block: SamBlock) -> None:
        self.encoder, self.block = encoder, block
        self.grid = tuple(block.tokens.shape[1:3])  # type: ignore[assignment]

    @cached_property
    def embedding(self) -> Tensor:
        """Behind the neck: (B, C', a, b)."""
        return self.encoder.neck(self.block.run())

    @property
    def tokens(self) -> Tensor:
        return self.embedding.flatten(2).mT

    def heads(self, name: str) -> Tensor:
        return self.block.qkv["qkv".index(name)]

    def attention(self, head: int, rows: slice) -> Tensor:
        return self.block.attention(head, rows)


@register_guide("sam")
class Sam(Guide):
    """SAM's image encoder, of a whole ``SamModel`` or alone."""

    models = "SAM: transformers' SamModel and SamVisionModel"

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self.encoder = self.module.vision_encoder
        patches = self.encoder.patch_embed
        self.patch_size = tuple(patches.projection.kernel_size)
        self.side = patches.image_size[0]

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        encoder: Any = getattr(module, "vision_encoder", None)
        layers: Any = getattr(encoder, "layers", None)
        attention = getattr(layers[-1], "attn", None) if layers else None
        return hasattr(encoder, "neck") and hasattr(attention, "get_rel_pos") and layers[-1].window_size == 0

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side // self.patch_size[0], self.side // self.patch_size[1]

    def look(self, pixels: Tensor) -> SamSeen:
        """See windows, (B, 3, H, W) of values 0 to 1, each stretched to SAM's square."""
        return self._seen(stretched(self.normalised(pixels), (self.side, self.side)))

    def _seen(self, pixels: Tensor) -> SamSeen:
        encoder = self.encoder
        tokens = encoder.patch_embed(pixels)
        tokens = tokens if encoder.pos_embed is None else tokens + encoder.pos_embed
        for layer in encoder.layers[:-1]:
            if layer.window_size == 0:
                tokens = SamBlock(layer, tokens).run()
            else:
                output = layer(tokens)
                tokens = output[0] if isinstance(output, tuple) else output
        return SamSeen(encoder, SamBlock(encoder.layers[-1], tokens))
