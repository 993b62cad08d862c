"""SAM (arXiv 2304.02643) as a guide: transformers' SamModel, or its image encoder alone.

A last block's attention has J x 4096 x 4096 entries (0.8 GB for ViT-B in single precision). It is never formed: global
blocks run head by head, in blocks of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .base import GuideView, stretched
from .prompts import PromptedGuide, row_blocks
from .registry import register_guide

AUTHORS_DECODER_EPS = 1e-5


class SamBlock:
    """A block with global attention and the tokens that enter it, (B, a, b, C), as q, k, v and relative positions."""

    def __init__(self, layer: Any, tokens: Tensor) -> None:
        self.layer, self.tokens = layer, tokens
        self.heads_count = layer.attn.num_attention_heads
        self._along_sides: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def qkv(self) -> Tensor:
        """(3, B, J, n, d)."""
        batch, a, b, _ = self.tokens.shape
        qkv = self.layer.attn.qkv(self.layer.layer_norm1(self.tokens))
        return qkv.reshape(batch, a * b, 3, self.heads_count, -1).permute(2, 0, 3, 1, 4)

    def position_bias(self, head: int, rows: slice | Tensor) -> Tensor | None:
        """What relative positions add to the scores of some rows, (B, rows, n); computed from q before its scale."""
        attention = self.layer.attn
        if not attention.use_rel_pos:
            return None
        if head not in self._along_sides:
            a, b = self.tokens.shape[1:3]
            q = self.qkv[0][:, head].unflatten(1, (a, b))
            of_rows, of_columns = (
                attention.get_rel_pos(side, side, positions).to(q.dtype)
                for side, positions in ((a, attention.rel_pos_h), (b, attention.rel_pos_w))
            )
            self._along_sides[head] = (
                torch.einsum("nabc,akc->nabk", q, of_rows).flatten(1, 2),
                torch.einsum("nabc,bkc->nabk", q, of_columns).flatten(1, 2),
            )
        down, across = self._along_sides[head]
        return (down[:, rows, :, None] + across[:, rows, None, :]).flatten(2)

    def attention(self, head: int, rows: slice | Tensor) -> Tensor:
        """Rows of one head's attention after the softmax, in single precision: (B, rows, n)."""
        q, k, _ = (part[:, head] for part in self.qkv)
        scores = (q[:, rows] * self.layer.attn.scale).float() @ k.float().mT
        bias = self.position_bias(head, rows)
        return (scores if bias is None else scores.add_(bias)).softmax(dim=-1)

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


class SamSeen(GuideView):
    """SAM's last block with the tokens that enter it."""

    def __init__(self, encoder: Any, block: SamBlock) -> None:
        self.encoder, self.block = encoder, block
        self.grid = tuple(block.tokens.shape[1:3])  # type: ignore[assignment]
        self.device = block.tokens.device

    @cached_property
    def embedding(self) -> Tensor:
        """Behind the neck: (B, C', a, b), what prompts are decoded from."""
        return self.encoder.neck(self.block.run())

    @property
    def tokens(self) -> Tensor:
        return self.embedding.flatten(2).mT

    def heads(self, name: str) -> Tensor:
        return self.block.qkv["qkv".index(name)]

    def attention(self, head: int, rows: slice | Tensor) -> Tensor:
        return self.block.attention(head, rows)


@register_guide("sam")
class Sam(PromptedGuide):
    """SAM's image encoder and, of a whole ``SamModel``, its prompts."""

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
        return self.seen(stretched(self.normalised(pixels), (self.side, self.side)))

    def seen(self, pixels: Tensor) -> SamSeen:
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

    def decode(
        self, embedding: Tensor, points: Tensor, boxes: Tensor, mask: Tensor, channel_axis: bool = True
    ) -> tuple[Tensor, Tensor]:
        if not hasattr(self.module, "mask_decoder"):
            raise UnsupportedModelError(
                f"{type(self.module).__name__} has no mask decoder, which SAM's prompts need; give a whole SamModel."
            )
        encoder, decoder = self.module.prompt_encoder, self.module.mask_decoder
        mask_embed = encoder.mask_embed
        dense = mask_embed(mask[None, None]) if channel_axis else embedded_by_rows(mask_embed, mask)
        sparse, _ = encoder(
            input_points=points[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int, device=points.device),
            input_boxes=boxes[None],
            input_masks=None,
        )
        with authors_decoder_eps(decoder):
            masks, scores = decoder(
                image_embeddings=embedding,
                image_positional_embeddings=self.module.get_image_wide_positional_embeddings().to(embedding.dtype),
                sparse_prompt_embeddings=sparse.to(embedding.dtype),
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )[:2]
        return masks[0, :, 0], scores[0, :, 0]


@contextlib.contextmanager
def authors_decoder_eps(decoder: Any) -> Iterator[None]:
    """The epsilon of SAM's own code, 1e-5, in the two-way transformer for a while: transformers' config has 1e-6."""
    norms = [getattr(layer, f"layer_norm{i}") for layer in decoder.transformer.layers for i in (1, 2, 3, 4)]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = AUTHORS_DECODER_EPS
        yield
    finally:
        for norm, eps in zip(norms, before, strict=True):
            norm.eps = eps


def embedded_by_rows(mask_embed: Any, mask: Tensor) -> Tensor:
    """The mask prompt (H, W) without its axis of channels, as Trident's published code gives it: (1, C', a, b)."""

    def norm(x: Tensor, layer: Any) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + layer.eps).sqrt()
        return layer.weight[:, None, None] * scaled + layer.bias[:, None, None]

    x = mask_embed.activation(norm(mask_embed.conv1(mask[None]), mask_embed.layer_norm1))
    x = mask_embed.activation(norm(mask_embed.conv2(x), mask_embed.layer_norm2))
    return mask_embed.conv3(x)[None]
