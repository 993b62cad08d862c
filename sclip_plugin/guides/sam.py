"""SAM (arXiv 2304.02643) as a guide: transformers' SamModel, or its image encoder alone.

Two ways to show it a picture: `look` stretches a batch of windows to SAM's square, as ProxyCLIP does; `read` takes one
8-bit picture as SAM's own predictor does, long side 1024 and padded, and gives what prompts are decoded from.

A last block's attention has J x 4096 x 4096 entries (0.8 GB for ViT-B in single precision). It is never formed: global
blocks run head by head, in blocks of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..imaging.pictures import to_tensor
from ..imaging.resampling import resize
from .base import Guide, Seen, stretched
from .registry import register_guide

ROWS_AT_ONCE = 1024


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


def row_blocks(count: int, at_once: int = ROWS_AT_ONCE) -> Iterator[slice]:
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


def part_of(width: int, index: int, count: int) -> slice:
    """Of so many parts side by side the columns of one; parts share columns where there are too few."""
    start = width * index // count
    return slice(start, max(start + 1, width * (index + 1) // count))


class SamSeen(Seen):
    """SAM's last block with the tokens that enter it."""

    def __init__(self, encoder: Any, block: SamBlock) -> None:
        self.encoder, self.block = encoder, block
        self.grid = tuple(block.tokens.shape[1:3])  # type: ignore[assignment]

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


@dataclass(frozen=True, eq=False)
class SamPicture:
    """A picture as SAM's predictor takes it.

    Attributes:
        seen: SAM's last block of the padded picture.
        size: (height, width) of the picture before SAM's own resizing.
        inside: (height, width) of the picture within SAM's square, in pixels.
        valid: (m_h, m_w), of its whole patches.
    """

    seen: SamSeen
    size: tuple[int, int]
    inside: tuple[int, int]
    valid: tuple[int, int]

    @cached_property
    def places(self) -> Tensor:
        """(m_h m_w,), the indices of the valid patches among all."""
        a, b = self.seen.grid
        indices = torch.arange(a * b, device=self.seen.block.tokens.device).view(a, b)
        return indices[: self.valid[0], : self.valid[1]].flatten()

    @cached_property
    def values(self) -> Tensor:
        """v of the last block at the valid patches, (J, m_h m_w, d)."""
        return self.seen.heads("v")[0][:, self.places]

    def attention(self, head: int, rows: slice) -> Tensor:
        """The last block's attention after the softmax, cut to valid patches: (rows, m_h m_w), sums below 1."""
        return self.seen.attention(head, self.places[rows])[0][:, self.places]


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
        self._last: tuple[Any, SamPicture] | None = None

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

    def read(
        self, picture: Image.Image, patch_size: tuple[int, int] = (1, 1), part: tuple[int, int] = (0, 1)
    ) -> SamPicture:
        """See one picture as SAM's predictor does: long side 1024 (Pillow's bilinear), padded.

        The picture that was read last is remembered, so that a method and what refines its labels share it.

        Args:
            picture: RGB.
            patch_size: the picture is first stretched to multiples of it, as OpenCV's INTER_LINEAR does; Trident takes
                CLIP's.
            part: (i, n), of n parts side by side the one that is looked at, from 0.

        Returns:
            A `SamPicture`.

        Source: Trident, arXiv 2411.09219.
        """
        pixels = to_tensor(picture)
        weight = next(self.module.parameters())
        content = hashlib.blake2b(pixels.numpy().tobytes()).digest()
        key = (content, pixels.shape, tuple(patch_size), part, weight.dtype, weight.device)
        last = self._last
        if last is None or last[0] != key:
            height, width = (-(-side // p) * p for side, p in zip(pixels.shape[-2:], patch_size, strict=True))
            pixels = resize(pixels, (height, width))
            self._last = last = (key, self._read(pixels[..., part_of(width, *part)]))
        return last[1]

    def _read(self, pixels: Tensor) -> SamPicture:
        """Of (3, H, W) uint8."""
        height, width = pixels.shape[-2:]
        scale = self.side / max(height, width)
        inside = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        rgb = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        small = torch.from_numpy(np.array(rgb.resize(inside[::-1], Image.Resampling.BILINEAR)))
        shown = self.normalised(small.permute(2, 0, 1)[None].float() / 255)
        seen = self._seen(F.pad(shown, (0, self.side - inside[1], 0, self.side - inside[0])))
        valid = max(1, inside[0] // self.patch_size[0]), max(1, inside[1] // self.patch_size[1])
        return SamPicture(seen, (height, width), inside, valid)

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
