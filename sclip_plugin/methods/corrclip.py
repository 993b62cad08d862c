"""CorrCLIP (arXiv 2411.10086) and its second version: regions say who may see whom, an outside model how much.

On the finer grid (a, b) of n cells, with S = f fᵀ of the outside model's unit features and u the region of the smallest
id ("no mask here"): cells of one region other than u see each other; cells of u see, and are seen by, those whose S is
above mean(S). A = softmax(4 S) over what is open. Three branches are projected each by itself and added:

    main      out(A V) of the stream X that enters the last block, V resized to the finer grid, no residual, no FFN
    spatial   the same of the mean of X over earlier blocks
    semantic  a token per region, a copy of CLS that reads its region in every block, beside the untouched stream

First version: f = q + k of DINO's last block on each window; regions that look alike are merged. Second version
(``correlation="picture"``, ``merge=None``): f of a model that sees the whole picture once, on twice CLIP's grid.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..fields import field_of
from ..guides import Guide
from ..guides.base import stretched
from ..imaging.resampling import bilinear_matrix, weighted
from .base import Dense, PictureMethod
from .proxy import ProxyCLIP, resized_values, row_blocks
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context, WholePicture, Window

SHARPNESS = 4.0
SPATIAL_BLOCKS = {12: 5, 24: 12, 32: 28}


@register_method("corrclip")
@dataclass(frozen=True, kw_only=True)
class CorrCLIP(ProxyCLIP, PictureMethod):
    """Attention within regions, and between cells without a region by an outside model; regions by ``masks=``.

    Without masks, and in `dense_features`, the whole picture is without regions. A tower without CLS has no semantic
    branch. In place (`apply`) it is refused: no forward of a model sums three projected branches.

    Fields:
        guide: the outside model; see `ProxyCLIP`.
        correlation: what correlates: ``"window"``, q + k of the outside model's last block on each window, on its grid;
            ``"picture"``, its final features of the whole picture, on twice CLIP's grid (the second version).
        merge: regions whose mean features' similarity is this close to the largest one become one; None for never.
        spatial, semantic: weights of the two branches beside the main one.
    """

    summary = "attention within regions of masks, by an outside model's likeness; region tokens beside CLIP's stream"
    source = "CorrCLIP, arXiv 2411.10086"
    sees_regions = True
    beta: float = field_of(1.0, "share of the mean similarity that cells without a region must exceed", low=0)
    gamma: float = field_of(SHARPNESS, "sharpness of the softmax", above=0)
    correlation: Literal["window", "picture"] = field_of("window", "what the outside model sees: window or picture")
    merge: float | None = field_of(0.2, "regions this close in likeness become one; none: never", low=0)
    spatial: float = field_of(1.0, "weight of the branch of earlier blocks", low=0)
    semantic: float = field_of(0.5, "weight of the branch of region tokens", low=0)

    def taps(self, depth: int) -> tuple[int, ...]:
        return tuple(range(depth - 1))

    def tokens_at_once(self, tower: Tower, size: tuple[int, int]) -> int:
        h, w = (max(1, side // patch) for side, patch in zip(size, tower.patch_size, strict=True))
        return max(4 * h * w, super().tokens_at_once(tower, size))

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        prefix, depth = context.prefix_tokens, context.depth
        if self.correlation == "window":
            mean, std = self.statistics(context.pixel_values)
            with torch.no_grad():
                seen = self.guide_of(context.tower).look(context.pixel_values.float() * std + mean)
            grid = seen.grid
            features = (seen.heads("q") + seen.heads("k")).transpose(1, 2).flatten(2)
        else:
            grid = (2 * context.grid[0], 2 * context.grid[1])
            features = self.of_picture(context, grid)
        features = F.normalize(features.to(block.tokens.device).float(), dim=-1)
        cells = [on_grid(ids, grid) for ids in window_ids(context)]
        if self.merge is not None:
            cells = [merged(ids, f, self.merge) for ids, f in zip(cells, features, strict=True)]
        patches = [on_grid(ids.view(grid), context.grid) for ids in cells]

        earlier = [context.taps[b].tokens for b in spatial_blocks(depth)]
        streams = [block] + ([block.at(torch.stack(earlier).mean(dim=0))] if earlier and self.spatial else [])
        values = torch.cat([resized_values(b.v[:, :, prefix:], context.grid, grid) for b in streams], dim=-1)
        with without_autocast(values.device):
            attended = [
                region_attention(f, v, ids, self.beta, self.gamma)
                for f, v, ids in zip(features, values.float(), cells, strict=True)
            ]
        branches = torch.stack(attended).to(values.dtype).chunk(len(streams), dim=-1)
        outs = [block.out(b.unflatten(2, (block.num_heads, -1)).transpose(1, 2)) for b in branches]
        rows = context.project(outs[0])
        for out in outs[1:]:
            rows = rows + self.spatial * context.project(out)
        if prefix and self.semantic:
            rows = rows + self.semantic * context.project(self.region_tokens(block, context, patches, grid))
        return Dense(rows, grid)

    def region_tokens(
        self, block: BlockInput, context: Context, patches: Sequence[Tensor], grid: tuple[int, int]
    ) -> Tensor:
        """For each cell of ``grid`` its region's token after the last block, (B, n, C); see `read_beside`."""
        prefix = context.prefix_tokens
        found = [ids.unique(return_inverse=True) for ids in patches]
        most = max(len(ids) for ids, _ in found)
        places = torch.stack([where for _, where in found])  # (B, N): of each patch its region's place
        # Tokens that a window with fewer regions has too many see the prefix alone, and no cell takes them.
        inside = places[:, None] == torch.arange(most, device=places.device)[:, None]
        sees = F.pad(inside, (prefix, 0), value=True)
        blocks = [context.taps[index] for index in range(context.depth - 1)] + [block]
        tokens = blocks[0].tokens[:, :1].expand(-1, most, -1)
        for each in blocks:
            tokens = read_beside(each, tokens, sees, prefix)
        of_cells = torch.stack([on_grid(where.view(context.grid), grid) for where in places])
        return tokens.gather(1, of_cells[..., None].expand(-1, -1, tokens.shape[-1]))

    def of_picture(self, context: Context, grid: tuple[int, int]) -> Tensor:
        """The outside model's features of whole pictures in each window, (B, n, C').

        They are resized to the picture's pixels, made unit vectors there, cut into windows, the border repeated where a
        window is padded, and resized to the cells: computed at those pixels only that cells take.
        """
        guide, found = self.guide_of(context.tower), []
        size = (context.pixel_values.shape[-2], context.pixel_values.shape[-1])
        mean, std = self.statistics(context.pixel_values)
        for index, pixels in enumerate(context.pixel_values):
            if context.windows:
                whole, box = context.windows[index].picture, context.windows[index].box
                key = ("corrclip", id(guide))
                maps = whole.once(key, functools.partial(look_once, guide, whole, mean, std))
                at, size_of_whole = box, (whole.pixels.shape[-2], whole.pixels.shape[-1])
            else:
                maps, at, size_of_whole = looked(guide, pixels * std + mean), (0, 0, *size), size
            sides = []
            for axis in (0, 1):
                start, cut = at[axis], at[axis + 2]
                front = (size[axis] - cut) // 2
                places = start + (torch.arange(size[axis]) - front).clamp(0, cut - 1)
                to_cells = bilinear_matrix(size[axis], grid[axis])
                used = to_cells.ne(0).any(dim=0)
                pick = bilinear_matrix(maps.shape[axis + 1], size_of_whole[axis])[places[used]]
                sides.append((pick.to(maps), to_cells[:, used].to(maps)))
            (rows, to_rows), (columns, to_columns) = sides
            at_pixels = F.normalize(torch.einsum("hi,wj,cij->hwc", rows, columns, maps), dim=-1)
            band = weighted(to_rows, at_pixels.flatten(1)[None])[0].unflatten(1, at_pixels.shape[1:])
            found.append(weighted(to_columns, band).flatten(0, 1))
        return torch.stack(found)


def spatial_blocks(depth: int) -> range:
    """Indices of the blocks whose inputs the spatial branch averages: of 12 those that leave blocks 6 to 10."""
    count = SPATIAL_BLOCKS.get(depth, depth - 4)
    return range(max(1, depth - 1 - count), depth - 1)


def look_once(guide: Guide, picture: WholePicture, mean: Tensor, std: Tensor) -> Tensor:
    """The guide's features of a picture at its original size, (C', gh, gw)."""
    if picture.original is not None:
        pixels = torch.from_numpy(np.asarray(picture.original.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    elif picture.pixels.is_floating_point():
        pixels = picture.pixels.to(mean.device).float() * std + mean
    else:
        pixels = picture.pixels.float() / 255
    return looked(guide, pixels)


def looked(guide: Guide, pixels: Tensor) -> Tensor:
    """(3, H, W) of values 0 to 1, sides rounded to the nearest multiple of the guide's patch, to (C', gh, gw)."""
    sides = [max(1, round(s / p)) * p for s, p in zip(pixels.shape[-2:], guide.patch_size, strict=True)]
    with torch.no_grad():
        seen = guide.look(stretched(pixels[None], (sides[0], sides[1])))
    return seen.tokens[0].float().T.unflatten(1, seen.grid)


def window_ids(context: Context) -> list[Tensor]:
    """Of each picture of the batch the regions of its pixels, (H, W); all 0 where there are no masks. Padding is a
    region of its own, of the largest id."""
    height, width = context.pixel_values.shape[-2:]
    device = context.pixel_values.device
    if not context.windows:
        return [torch.zeros(height, width, device=device)] * len(context.pixel_values)
    return [_ids_of(window, (height, width)).to(device) for window in context.windows]


def _ids_of(window: Window, size: tuple[int, int]) -> Tensor:
    picture, (top, left, height, width) = window.picture, window.box

    def whole() -> Tensor:
        sides = (picture.pixels.shape[-2], picture.pixels.shape[-1])
        if picture.regions is None:
            return torch.zeros(sides)
        _, ids = np.unique(picture.regions(), return_inverse=True)
        return on_grid(torch.from_numpy(ids.reshape(picture.regions().shape)).float(), sides).view(sides)

    ids = picture.once("region ids", whole)
    above, before = (size[0] - height) // 2, (size[1] - width) // 2
    around = (before, size[1] - width - before, above, size[0] - height - above)
    cut = ids[top : top + height, left : left + width]
    return F.pad(cut, around, value=float(ids.max()) + 1)


def on_grid(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """(h, w) to the nearest of another grid, (a b,), as torch's nearest takes it."""
    return F.interpolate(ids[None, None].float(), size=grid, mode="nearest").flatten().to(ids.dtype)


def merged(ids: Tensor, features: Tensor, distance: float) -> Tensor:
    """Regions that are alike become one; the smallest id stays as it is.

    Args:
        ids: (n,), of each cell.
        features: (n, C'), unit.
        distance: two regions are joined where max(T) - T is no larger, with T the similarities of their unit means;
            then those joined with those.

    Returns:
        (n,): 0 for the smallest id, then 1 + the number of the component, in order of each one's smallest id. Fewer
        than three ids stay.
    """
    _, regions = ids.unique(return_inverse=True)
    count = int(regions.max()) + 1
    if count < 3:
        return ids
    means = features.new_zeros(count, features.shape[1]).index_add_(0, regions, features)[1:]
    unit = F.normalize(means / regions.bincount(minlength=count)[1:, None], dim=1)
    T = unit @ unit.T
    joined = T.max() - T <= distance
    first = torch.arange(count - 1, device=ids.device)
    while True:
        lowest = torch.where(joined, first, count).amin(dim=1).minimum(first)
        if torch.equal(lowest, first):
            break
        first = lowest
    _, component = first.unique(return_inverse=True)
    return F.pad(component + 1, (1, 0))[regions].to(ids.dtype)


def region_attention(features: Tensor, values: Tensor, ids: Tensor, beta: float, gamma: float) -> Tensor:
    """A V of one window, in blocks of rows: (n, C') unit features, (n, C) values and (n,) regions to (n, C)."""
    nowhere = ids == ids.min()
    threshold = beta * features.mean(dim=0).square().sum()  # β mean(S), the diagonal included
    out = torch.empty_like(values)
    for rows in row_blocks(1, len(features)):
        S = features[rows] @ features.T
        same = (ids[rows, None] == ids) & ~nowhere
        opened = same | ((nowhere[rows, None] | nowhere) & (S > threshold))
        opened |= torch.arange(rows.start, rows.stop, device=ids.device)[:, None] == torch.arange(
            len(ids), device=ids.device
        )
        out[rows] = (gamma * S).masked_fill(~opened, -torch.inf).softmax(dim=-1) @ values
    return out


def read_beside(block: BlockInput, tokens: Tensor, sees: Tensor, prefix: int) -> Tensor:
    """Tokens of regions, (B, R, C), through a block whose own tokens they read and do not touch.

    Args:
        block: with the tokens that enter it.
        tokens: of regions, entering the block.
        sees: (B, R, P + N), what of the block's tokens each of them attends to.
        prefix: P.
    """
    # Where positions are rotations, they are those of the last N tokens, so the patches follow the regions' tokens.
    beside = block.at(torch.cat([tokens, block.tokens[:, prefix:]], dim=1))
    q = beside.q[:, :, : tokens.shape[1]]
    attended = F.scaled_dot_product_attention(q, block.k, block.v, attn_mask=sees[:, None], scale=block.scale)
    tokens = tokens + block.out(attended)
    return tokens + block.ffn(tokens)
