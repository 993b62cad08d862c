"""Guides of SAM's kind: how a whole picture is shown to them, and masks decoded from prompts.

SAM's predictor takes one 8-bit picture with its long side at 1024, padded to the square; where the padding is, nothing
is valid. Prompts are in pixels of that square.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
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
from .base import Guide

ROWS_AT_ONCE = 1024
PROMPTS_AT_ONCE = 8


def row_blocks(count: int, at_once: int = ROWS_AT_ONCE) -> Iterator[slice]:
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


def part_of(width: int, index: int, count: int) -> slice:
    """Of so many parts side by side the columns of one; parts share columns where there are too few."""
    start = width * index // count
    return slice(start, max(start + 1, width * (index + 1) // count))


@dataclass(frozen=True, eq=False)
class SamPicture:
    """A picture as SAM's predictor takes it.

    Attributes:
        seen: of the padded picture; it has ``embedding``, (1, C', a, b), what prompts are decoded from.
        size: (height, width) of the picture before SAM's own resizing.
        inside: (height, width) of the picture within SAM's square, in pixels.
        valid: (m_h, m_w), of its whole patches.
    """

    seen: Any
    size: tuple[int, int]
    inside: tuple[int, int]
    valid: tuple[int, int]

    @cached_property
    def places(self) -> Tensor:
        """(m_h m_w,), the indices of the valid patches among all."""
        a, b = self.seen.grid
        indices = torch.arange(a * b, device=self.seen.device).view(a, b)
        return indices[: self.valid[0], : self.valid[1]].flatten()

    @cached_property
    def values(self) -> Tensor:
        """v of the last block at the valid patches, (J, m_h m_w, d)."""
        return self.seen.heads("v")[0][:, self.places]

    def attention(self, head: int, rows: slice) -> Tensor:
        """The last block's attention after the softmax, cut to valid patches: (rows, m_h m_w), sums below 1."""
        return self.seen.attention(head, self.places[rows])[0][:, self.places]


class PromptedGuide(Guide):
    """A guide that sees a whole picture in a square, and decodes masks from prompts.

    Attributes:
        side: of the square, in pixels.
    """

    side: int

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self._last: tuple[Any, SamPicture] | None = None

    @abstractmethod
    def seen(self, pixels: Tensor) -> Any:
        """A `GuideView`, with an ``embedding``, of a square of normalised pixels (B, 3, side, side)."""

    @abstractmethod
    def decode(
        self, embedding: Tensor, points: Tensor, boxes: Tensor, mask: Tensor, channel_axis: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts, each a point and a box; one mask prompt for all of them. All on the model's device.

        Args:
            embedding: (1, C', a, b), of what was `seen`.
            points, boxes: (n, 2) as (x, y), (n, 4) as (x0, y0, x1, y1), in pixels of the square; SAM adds its half.
            mask: (4 a, 4 b), the mask prompt.
            channel_axis: False for the arithmetic of Trident's published code, which leaves the axis of channels out:
                SAM's norms then go over the rows of each column.

        Returns:
            Low-resolution masks (n, 4 a, 4 b) and predicted IoU (n,), of SAM's first mask token.

        Raises:
            UnsupportedModelError: an image encoder alone, which has no decoder.
        """

    def masks(
        self, embedding: Tensor, points: Tensor, boxes: Tensor, mask: Tensor, channel_axis: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`decode` for any number of prompts, given on any device, in single precision."""
        points, boxes = (prompt.to(embedding.device, torch.float32) for prompt in (points, boxes))
        mask = mask.to(embedding)
        parts = [
            self.decode(embedding, points[part], boxes[part], mask, channel_axis)
            for part in row_blocks(len(points), PROMPTS_AT_ONCE)
        ]
        return torch.cat([low for low, _ in parts]).float(), torch.cat([iou for _, iou in parts]).float()

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
        seen = self.seen(F.pad(shown, (0, self.side - inside[1], 0, self.side - inside[0])))
        valid = max(1, inside[0] // self.patch_size[0]), max(1, inside[1] // self.patch_size[1])
        return SamPicture(seen, (height, width), inside, valid)
