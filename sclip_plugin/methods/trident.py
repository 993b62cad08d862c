"""Trident (arXiv 2411.09219): ProxyCLIP's windows, joined before the projection, then aggregated by SAM.

Windows go through CLIP (all but the last block) and the outside model; its similarities attend over CLIP's values, with
one mean similarity for all windows of a picture. What leaves ``out`` is spliced into one map of the picture and resized
to the grid of SAM, which sees the whole picture. There

    R_j = ⟨V_j⟩⟨V_j⟩ᵀ,  t_i = c · mean of R_j[i, ·] over heads and places,  M = Σ_j (T_j where R_j > t, else 0)

of SAM's last block (V_j: values of head j, T_j: its attention after the softmax), and each row of M, divided by its
sum, says what a place takes from which. No map of places by places is formed: rows in blocks, head by head.

Where the published code fails: as ProxyCLIP's; a row without any share takes its own place; pictures smaller than a
window are stretched to it, whether or not the patch divides them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import budget, without_autocast
from ..errors import SettingError, UnsupportedModelError
from ..fields import field_of
from ..guides import Guide, as_guide
from ..guides.prompts import SamPicture, part_of, row_blocks
from ..guides.sam import Sam
from ..imaging.resampling import to_picture
from ..towers.running import WholePicture, Window, before_last_block
from .base import Dense, PictureMethod
from .proxy import ProxyCLIP, mean_similarity, proxy_attention, resized_values
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context

REPLACED, AT_MOST = 0.6, 0.9
"""What a negative threshold becomes without ``keep_negative``, and the largest."""


@register_method("trident")
@dataclass(frozen=True, kw_only=True)
class Trident(ProxyCLIP, PictureMethod):
    """`ProxyCLIP` in windows, joined for the picture, then aggregated by SAM's last block, on SAM's grid.

    SAM sees the given picture. `dense_features` takes its pixels for a picture of one window; SAM then sees the pixels
    before normalisation, rounded to 8 bits.

    Fields:
        guide: the outside model beside each window; see `ProxyCLIP`.
        sam: SAM: a name (``"facebook/sam-vit-base"``), a folder, a ``SamModel``, or a `Guide`.
        cos_fac: c; the threshold of a place is c times its mean similarity.
        keep_negative: keep thresholds below 0; False: they become 0.6.
        halves: number of parts, side by side, that SAM sees one by one, each with its own correlation (Cityscapes: 2).
    """

    summary = "proxyclip in windows, joined and aggregated by SAM's last block, on SAM's grid"
    source = "Trident, arXiv 2411.09219"
    guide: str | nn.Module | Guide = field_of(
        "facebook/dino-vitb16", "the outside model: a name, a folder, or a model", holds="model"
    )
    sam: str | nn.Module | Guide = field_of("facebook/sam-vit-base", "SAM: a name, a folder, or a model", holds="model")
    cos_fac: float = field_of(1.2, "c: the threshold of a place is c times its mean similarity")
    keep_negative: bool = field_of(True, "keep thresholds below 0; False: they become 0.6")
    halves: int = field_of(1, "number of parts, side by side, that SAM sees one by one", low=1, high=16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sam, (str, nn.Module, Guide)) or not self.sam:
            raise SettingError(f"trident got sam={self.sam!r}; expected a model's name or a folder, or a model.")

    def window(self, asked: int) -> int:
        return 0

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def sam_guide(self, tower: Tower) -> Sam:
        weight = next(tower.trunk.parameters())
        guide = as_guide(self.sam, device=weight.device, dtype=weight.dtype)
        if not isinstance(guide, Sam):
            raise UnsupportedModelError(
                f"trident got {type(guide.module).__name__} for sam; expected SAM: transformers' SamModel."
            )
        return guide

    def guides(self, tower: Tower) -> tuple[Guide, ...]:
        return self.guide_of(tower), self.sam_guide(tower)

    def reach_last_block(
        self,
        tower: Tower,
        pixel_values: Tensor,
        hidden_states: list[Tensor] | None = None,
        windows: Sequence[Window] = (),
        taps: Sequence[int] = (),
    ) -> tuple[BlockInput, Context]:
        """The last block with the tokens of all windows of the picture, and the windows as ``context.windows``."""
        if not windows:
            block, context = super().reach_last_block(tower, pixel_values, hidden_states)
            height, width = (side * patch for side, patch in zip(context.grid, tower.patch_size, strict=True))
            context.windows = [
                Window(
                    WholePicture(pixels[:, :height, :width], to_picture(pixels, *self.statistics(pixels))),
                    (0, 0, height, width),
                )
                for pixels in context.pixel_values
            ]
            return block, context
        (given,) = windows
        whole = in_patches(pixel_values, tower.patch_size, given.picture.window)
        picture = dataclasses.replace(
            given.picture,
            pixels=whole[0],
            original=given.picture.original or to_picture(given.picture.pixels, *self.statistics(whole)),
        )
        boxes = boxes_of((whole.shape[2], whole.shape[3]), picture.window, picture.stride, tower.patch_size)
        cut = torch.stack([whole[0, :, top : top + h, left : left + w] for top, left, h, w in boxes])
        at_once = (picture.limits or budget(whole.device)).tokens // self.tokens_at_once(tower, boxes[0][2:])
        parts = [before_last_block(tower, part, (), self.position_resize) for part in cut.split(max(1, at_once))]
        context = parts[0][1]
        context.pixel_values, context.windows = cut, [Window(picture, box) for box in boxes]
        tokens = torch.cat([block.tokens for block, _ in parts])
        return context.tower.block_input(tower.blocks[-1], tokens), context

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        first, rows, grid = 0, [], context.grid
        sam = self.sam_guide(context.tower)
        for _, windows in itertools.groupby(context.windows, key=lambda window: id(window.picture)):
            cut = list(windows)
            attended = self.attended(block, context, slice(first, first + len(cut)))
            spliced = splice(attended, cut, context.grid, context.tower.patch_size)
            with without_autocast(spliced.device):
                patches, grid = self.aggregated(spliced, cut[0].picture, sam, context.tower.patch_size)
            rows.append(patches)
            first += len(cut)
        return Dense(context.project(torch.stack(rows)), grid)

    def attended(self, block: BlockInput, context: Context, windows: slice) -> Tensor:
        """What leaves ``out`` for the windows of one picture, (n, C, a, b)."""
        guide = self.guide_of(context.tower)
        pixels = context.pixel_values[windows].float()
        mean, std = self.statistics(pixels)
        picture = context.windows[windows.start].picture
        at_once = (picture.limits or budget(pixels.device)).tokens // self.tokens_at_once(
            context.tower, (pixels.shape[2], pixels.shape[3])
        )
        features, grid = [], context.grid
        with torch.no_grad():
            for part in pixels.split(max(1, at_once)):
                seen = guide.look(part * std + mean)
                features.append(seen.tokens.to(block.tokens.device))
                grid = seen.grid
        v = resized_values(block.v[windows, :, context.prefix_tokens :], context.grid, grid)
        with without_autocast(v.device):
            one_mean = torch.cat([mean_similarity(part) for part in features]).mean()
            out = [
                proxy_attention(part, values.float(), self.beta, self.gamma, one_mean.expand(len(part)))
                for part, values in zip(features, v.split(max(1, at_once)), strict=True)
            ]
        attended = torch.cat(out).to(v.dtype).unflatten(2, (block.num_heads, -1)).transpose(1, 2)
        return block.out(attended).mT.unflatten(2, grid)

    def aggregated(
        self, spliced: Tensor, picture: WholePicture, sam: Sam, patch_size: tuple[int, int]
    ) -> tuple[Tensor, tuple[int, int]]:
        """The map of a picture, (C, h, w), on SAM's valid grid and aggregated there: (m, C), and the grid."""
        assert picture.original is not None, "reach_last_block gives each picture one"
        parts: list[Tensor] = []
        width = spliced.shape[2]
        for i in range(self.halves):
            with torch.no_grad():
                seen = sam.read(picture.original, patch_size, (i, self.halves))
            part = spliced[None, :, :, part_of(width, i, self.halves)].float()
            resized = F.interpolate(part, size=seen.valid, mode="bilinear", align_corners=False)[0]
            taken = aggregate(resized.flatten(1).T, seen, self.cos_fac, self.keep_negative)
            part = taken.T.unflatten(1, seen.valid)
            if parts and part.shape != parts[0].shape:  # a width that so many parts do not divide
                part = F.interpolate(part[None], size=parts[0].shape[1:], mode="bilinear", align_corners=False)[0]
            parts.append(part)
        joined = torch.cat(parts, dim=2)
        return joined.flatten(1).T.to(spliced.dtype), (joined.shape[1], joined.shape[2])


def in_patches(pixels: Tensor, patch_size: tuple[int, int], window: int) -> Tensor:
    """Normalised pixels (1, 3, H, W) resized, bilinear, so that the patch divides the sides, none below a window's.

    Where the patch does not divide them, the long side goes up to its next multiple and the other with it.
    """
    height, width = pixels.shape[-2:]
    sides = [height, width]
    if height % patch_size[0] or width % patch_size[1]:
        long = int(width > height)
        up = -(-sides[long] // patch_size[long]) * patch_size[long]
        sides = [-(-(side * up // sides[long]) // patch) * patch for side, patch in zip(sides, patch_size, strict=True)]
    sides = [max(side, window // patch * patch, patch) for side, patch in zip(sides, patch_size, strict=True)]
    if sides == [height, width]:
        return pixels
    return F.interpolate(pixels.float(), size=sides, mode="bilinear", align_corners=False).to(pixels.dtype)


def boxes_of(
    size: tuple[int, int], window: int, stride: int, patch_size: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of windows whose corners and sides are multiples of the patch, row by row.

    >>> boxes_of((128, 160), 112, 64, (16, 16))
    [(0, 0, 112, 112), (0, 48, 112, 112), (16, 0, 112, 112), (16, 48, 112, 112)]
    """
    starts, cut = [], []
    for side, patch in zip(size, patch_size, strict=True):
        length = min(side, max(1, window // patch) * patch) if window else side
        step = max(1, stride // patch) * patch
        count = -(-(side - length) // step) + 1
        starts.append([min(i * step, side - length) for i in range(count)])
        cut.append(length)
    return [(top, left, cut[0], cut[1]) for top in starts[0] for left in starts[1]]


def splice(maps: Tensor, windows: Sequence[Window], grid: tuple[int, int], patch_size: tuple[int, int]) -> Tensor:
    """The maps of all windows, (n, C, a, b), put together by their places, averaged where they overlap: (C, h, w).

    Places stand r times as dense as CLIP's patches: b / w where that is whole, else a / h rounded, with the maps
    resized.

    Args:
        grid: (h, w), CLIP's patches in a window.
    """
    (h, w), (a, b) = grid, maps.shape[2:]
    ratio = b // w if b % w == 0 else max(1, round(a / h))
    if (a, b) != (h * ratio, w * ratio):
        size = (h * ratio, w * ratio)
        maps = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False).to(maps.dtype)
    height, width = windows[0].picture.pixels.shape[1:]
    rows, columns = (ratio * (side // patch) for side, patch in zip((height, width), patch_size, strict=True))
    whole = torch.zeros(maps.shape[1], rows, columns, device=maps.device)
    covered = torch.zeros(rows, columns, device=maps.device)
    for window, values in zip(windows, maps, strict=True):
        top, left = (ratio * (corner // patch) for corner, patch in zip(window.box, patch_size, strict=False))
        place = (slice(top, top + values.shape[1]), slice(left, left + values.shape[2]))
        whole[:, place[0], place[1]] += values
        covered[place] += 1
    return (whole / covered).to(maps.dtype)


def thresholds(values: Tensor, cos_fac: float, keep_negative: bool) -> Tensor:
    """t of each place, (m,), of unit values (J, m, d): no similarities are formed."""
    mean = (values @ values.mean(dim=1)[..., None])[..., 0].mean(dim=0)
    t = cos_fac * mean
    t = t if keep_negative else t.masked_fill(t < 0, REPLACED)
    return t.clamp(max=AT_MOST)


@torch.no_grad()
def correlation_rows(seen: SamPicture, unit: Tensor, t: Tensor, rows: slice) -> Tensor:
    """Some rows of W, (rows, m); of a place that takes nothing from any, itself alone."""
    total = torch.zeros(unit[0, rows].shape[0], unit.shape[1], device=unit.device)
    for head, values in enumerate(unit):
        similar = values[rows] @ values.T
        total += seen.attention(head, rows).masked_fill_(similar <= t[rows, None], 0)
    sums = total.sum(dim=1, keepdim=True)
    places = torch.arange(rows.start, rows.start + len(total), device=unit.device)
    itself = F.one_hot(places, unit.shape[1]).to(total.dtype)
    return torch.where(sums > 0, total / sums.clamp(min=torch.finfo(sums.dtype).tiny), itself)


def aggregate(features: Tensor, seen: SamPicture, cos_fac: float, keep_negative: bool) -> Tensor:
    """W features, (m, C) in single precision, in blocks of rows."""
    with torch.no_grad():
        unit = F.normalize(seen.values.float(), dim=-1)
        t = thresholds(unit, cos_fac, keep_negative)
    features = features.float().to(unit.device)
    taken = [correlation_rows(seen, unit, t, rows) @ features for rows in row_blocks(len(features))]
    return torch.cat(taken).to(features.device)
