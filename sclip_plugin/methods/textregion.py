"""TextRegion (arXiv 2505.23769): one token for each mask, soft or hard, and nothing but CLIP.

The picture is squashed to a square (`cell`) as a whole and in cells; values of the last block's patches, V, are the
whole's, resized, plus each cell's in its place. The token of mask m is out(Σ m V), a sum, projected. Patches that
are no more like the masks that they lie in than like others ("global" ones) are taken out first. A pixel's scores are
those of its masks' tokens, added up with the masks' weights there; where no mask lies, those of SCLIP's patches.

A tower whose head pools by attention (SigLIP, PE) is read through that head: the mean of what the head attends to over
the patches that a mask touches, through the head's values and output projection; the whole picture counts half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..errors import SettingError
from ..fields import field_of
from ..guides.prompts import part_of
from ..imaging.resampling import upsampled
from ..towers.running import Context, Window, before_last_block
from .attention import CorrelativeSelfAttention
from .base import Dense, PictureMethod
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower


@register_method("textregion")
@dataclass(frozen=True, kw_only=True)
class TextRegion(PictureMethod):
    """One token per mask of ``masks=``; masks may overlap. It needs a segmenter.

    Fields:
        threshold: patches whose likeness to the masks that they lie in exceeds that to the others by less are taken
            out; None for all patches as they are.
        ffn: add the last block's feed-forward network, as the authors' demo does; their benchmarks do not.
        fill: pixels in no mask take SCLIP's scores, as in the authors' benchmarks; otherwise they have no scores.
        cell: side in pixels of the square that the picture and its cells are resized to; None: the tower's own input
            size. The authors use 336 for every CLIP of OpenAI and LAION.
        halves: number of parts, side by side, that the whole picture is resized in; the authors use 2 for Cityscapes.
    """

    summary = "one token per mask: the sum of the last block's values in it"
    source = "TextRegion, arXiv 2505.23769"
    sees_regions = True
    threshold: float | None = field_of(0.07, "remove patches that are equally similar to all masks; None: keep all")
    ffn: bool = field_of(False, "add the last block's feed-forward network")
    fill: bool = field_of(True, "pixels in no mask take SCLIP's scores")
    cell: int | None = field_of(None, "side of a cell in pixels; none: the tower's input size", low=1, high=2**12)
    halves: int = field_of(1, "parts of the picture, side by side, that stand for the whole", low=1, high=16)

    def window(self, asked: int) -> int:
        return 0

    def reach_last_block(
        self,
        tower: Tower,
        pixel_values: Tensor,
        hidden_states: list[Tensor] | None = None,
        windows: Sequence[Window] = (),
        taps: Sequence[int] = (),
    ) -> tuple[BlockInput, Context]:
        """The last block with the tokens of the whole picture and of its cells, each squashed to the native square."""
        if not windows or windows[0].picture.masks is None:
            raise SettingError(
                "textregion looks at masks, and there are none; expected a Segmenter with masks, such as masks='slic' "
                "or 'sam:NAME'."
            )
        sides = zip(tower.native_grid, tower.patch_size, strict=True)
        native = [max(self.cell or side * patch, patch) for side, patch in sides]
        width = pixel_values.shape[-1]
        views = [pixel_values[..., part_of(width, i, self.halves)] for i in range(self.halves)] + [
            pixel_values[..., top : top + height, left : left + width]
            for top, left, height, width in cells(pixel_values.shape[-2:], native)
        ]
        squashed = [F.interpolate(v.float(), native, mode="bicubic", antialias=True) for v in views]
        return before_last_block(
            tower, torch.cat(squashed).to(pixel_values.dtype), (), self.position_resize, windows=windows
        )

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        (window,), prefix, tower = context.windows, context.prefix_tokens, context.tower
        picture, native = window.picture, context.pixel_values.shape[-2:]
        assert picture.masks is not None, "reach_last_block has seen to it"
        soft = soft_masks(picture.masks()).to(block.tokens.device)
        height, width = picture.pixels.shape[-2:]
        counts = (max(height // native[0], 1), max(width // native[1], 1))
        pooled = tower.pool_input(tower.run_block(block.block, block.tokens)) if tower.pools_patches else None
        values = block.v.transpose(1, 2).flatten(2) if pooled is None else pooled
        with without_autocast(values.device):
            patches = values[:, prefix:].float().unflatten(1, context.grid)
            V = put_together(patches, counts, 1.0 if pooled is None else 0.5, self.halves).flatten(0, 1)
            grid = (counts[0] * context.grid[0], counts[1] * context.grid[1])
            m = F.interpolate(soft[None], grid, mode="bilinear", align_corners=False)[0].clamp(0, 1).flatten(1)
            if self.threshold is not None:
                unit = F.normalize(V, dim=1)
                m, V = without_global(unit, m, self.threshold), unit if pooled is None else V
            kept = m.sum(dim=1) > 0
            m = m[kept] if pooled is None else F.normalize((m[kept] > 0).to(V.dtype), p=1, dim=1)
            read = (m @ V).to(block.tokens.dtype)[None]
        if pooled is None:
            tokens = block.out(read.unflatten(2, (block.num_heads, -1)).transpose(1, 2))
            rows = [tower.project(tokens + block.ffn(tokens) if self.ffn else tokens)]
        else:
            rows = [tower.pool_output(read)]
        if self.fill:
            filling = CorrelativeSelfAttention()(block, context)[:, prefix:]
            rows.append(tower.project(filling.flatten(0, 1)[None]))
        weights, views, shape = soft[kept].clamp(0, 1), len(block.tokens), context.grid

        def spread(scores: Tensor) -> Tensor:
            """Of each region, then of each patch of each view, (R + n, K), to pixels of the masks, (H', W', K)."""
            regions, rest = scores[: len(weights)], scores[len(weights) :]
            out = torch.einsum("rhw,rk->hwk", weights.to(scores.dtype), regions)
            if self.fill:
                nowhere = ~(weights > 0).any(dim=0)
                if nowhere.any():
                    whole = put_together(rest.view(views, *shape, -1), counts, halves=self.halves)
                    out[nowhere] = upsampled(whole, (weights.shape[1], weights.shape[2]))[nowhere]
            return out

        return Dense(torch.cat(rows, dim=1), (soft.shape[1], soft.shape[2]), spread)


def cells(size: Sequence[int], native: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the cells of a picture, row by row: as many as native squares fit, at least one;
    the last ones shifted back inside."""
    sides = []
    for side, fits in zip(size, native, strict=True):
        count = max(side // fits, 1)
        cell = -(-side // count)
        sides.append([(min(index * cell, side - cell), cell) for index in range(count)])
    return [(top, left, height, width) for top, height in sides[0] for left, width in sides[1]]


def soft_masks(masks: np.ndarray) -> Tensor:
    """(R, H', W') float32 of masks, or of an id map, whose regions are the ids from 1 on."""
    if masks.ndim == 2:
        ids = np.unique(masks)
        masks = masks == ids[ids > 0][:, None, None]
    return torch.from_numpy(np.ascontiguousarray(masks)).float()


def put_together(views: Tensor, counts: tuple[int, int], share: float = 1.0, halves: int = 1) -> Tensor:
    """The whole's map, resized, times a share, plus the cells' in their places: (halves + n, g, g', C) to (…, …, C)."""
    rows, columns = counts
    height, width = rows * views.shape[1], columns * views.shape[2]
    cells_of = views[halves:].unflatten(0, counts).permute(0, 2, 1, 3, 4).reshape(height, width, -1)
    places = [range(width)[part_of(width, i, halves)] for i in range(halves)]
    parts = [upsampled(view, (height, len(place))) for view, place in zip(views[:halves], places, strict=True)]
    return share * torch.cat(parts, dim=1)[:, :width] + cells_of


def without_global(V: Tensor, m: Tensor, threshold: float) -> Tensor:
    """Masks, (R, N), without the patches that are as much like other masks as like those that they lie in.

    Args:
        V: (N, C), unit.
        m: (R, N).
        threshold: the least difference of a patch's mean likeness to the masks that it lies in and to the others.
    """
    inside = (m > 0).to(V.dtype)
    likeness = V @ (inside @ V / inside.sum(dim=1, keepdim=True).clamp(min=1)).T  # (N, R)
    own, other = ((likeness * part).sum(dim=1) / (part.sum(dim=1) + 1e-9) for part in (inside.T, 1 - inside.T))
    return m.masked_fill(own - other < threshold, 0)
