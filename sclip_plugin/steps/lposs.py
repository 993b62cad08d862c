"""LPOSS and LPOSS+ (arXiv 2503.19777): label propagation over the patches of all windows, then over pixels.

Each patch is joined to the patches that are near and that an outside model finds most similar:
g = max(0, d·d')^γ exp(-σ ‖p - p'‖), W = G + Gᵀ, 𝒮 = s^-½ W s^-½ with s its row sums. (I - α 𝒮) Z = Y is solved for each
name by ten iterations of conjugate gradients. Ten do not converge, so their number is part of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from ..fields import field_of
from ..guides import Guide, as_guide
from ..imaging.tiles import TiledMap
from .base import PatchScores, PixelScores, Place, Step
from .registry import register_step
from .scores import Kind

ROWS_AT_ONCE = 1024
VALUES_AT_ONCE = 2**21
BAND_ROWS = 16


@register_step("lposs")
@dataclass(frozen=True, kw_only=True)
class LPOSS(Step):
    """Label propagation over the patches of all windows.

    Fields:
        guide: outside model whose last block's values measure similarity: a name, a folder, or a model.
        k: neighbours of each patch; all patches if there are fewer.
        gamma, sigma: γ, power of the similarity, and σ, its decay per pixel of distance.
        alpha: α, propagation weight: 0 keeps each patch's own scores; near 1, its neighbours decide.
        iterations: iterations of conjugate gradients.
        merge_names: take the best name of each class on the patches, as the published code does for a picture in one
            window (``window=0``).
    """

    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "logit"
    summary: ClassVar[str] = "spread labels over the patches of all windows, by an outside model's similarity"
    source: ClassVar[str] = "LPOSS, arXiv 2503.19777"
    guide: str | nn.Module | Guide = field_of(
        "facebook/dino-vitb16", "the outside model: a name, a folder, or a model", holds="model"
    )
    k: int = field_of(400, "neighbours of a patch", low=1)
    gamma: float = field_of(3.0, "power of the similarity", above=0)
    sigma: float = field_of(0.01, "decay of the similarity per pixel of distance", low=0)
    alpha: float = field_of(
        0.95, "propagation weight: 0 keeps own scores; near 1, neighbours decide", low=0, high=0.999
    )
    iterations: int = field_of(10, "of conjugate gradients", low=1)
    merge_names: bool = field_of(False, "take the best name of each class on the patches")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.guide, (str, nn.Module, Guide)) or not self.guide:
            raise SettingError(f"lposs got guide={self.guide!r}; expected a model's name, a folder, or a model.")

    def __call__(self, given: PatchScores) -> Tensor:
        graph = self.graph(self.values(given), places(given))
        solved = conjugate_gradients(
            lambda z: z - self.alpha * (graph @ z), given.scores.flatten(0, 2).double(), self.iterations
        )
        scores = solved.view_as(given.scores).to(given.scores.dtype)
        return merged(scores, given.words.class_of_name) if self.merge_names else scores

    def values(self, given: PatchScores) -> Tensor:
        """d, (N, C'): unit vectors of the guide's last-block values at each patch, all heads.

        Values on another grid are resized to the grid of the scores. (The published code resizes CLIP's features to
        DINO's grid; both have patches of 16 there.)
        """
        device = given.scores.device
        given.shown.known_pixels()  # a picture that is not known is said before a model is fetched
        guide = as_guide(self.guide, device=device, dtype=torch.float32)
        grid, found = given.scores.shape[1:3], []
        for windows in given.window_pixels(guide.patch_size).split(8):
            seen = guide.look(windows)
            values = seen.heads("v").transpose(1, 2).flatten(2).float()
            if tuple(seen.grid) != tuple(grid):
                maps = values.mT.unflatten(2, seen.grid)
                values = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False).flatten(2).mT
            found.append(F.normalize(values, dim=-1).flatten(0, 1))
        return torch.cat(found).to(device)

    def graph(self, values: Tensor, where: Tensor) -> Tensor:
        """𝒮, sparse (N, N) in double precision; its weights are computed in single."""
        count = len(values)
        rows, columns, weights = [], [], []
        for start in range(0, count, ROWS_AT_ONCE):
            similarity = values[start : start + ROWS_AT_ONCE] @ values.T
            best, index = similarity.topk(min(self.k, count), dim=1)
            row = torch.arange(start, start + len(best), device=values.device)[:, None].expand_as(index)
            distance = (where[row] - where[index]).square().sum(dim=-1).sqrt()
            weights.append((best.clamp(min=0) ** self.gamma * torch.exp(-self.sigma * distance)).flatten())
            rows.append(row.flatten())
            columns.append(index.flatten())
        row, column, weight = torch.cat(rows), torch.cat(columns), torch.cat(weights)
        others = row != column
        row, column, weight = row[others], column[others], weight[others]
        # Mutual neighbours count twice.
        both = torch.stack([torch.cat([row, column]), torch.cat([column, row])])
        whole = sparse(both, torch.cat([weight, weight]), count)
        (row, column), weight = whole.indices(), whole.values().double()
        sums = torch.zeros(count, dtype=torch.double, device=values.device).index_add_(0, row, weight)
        scale = torch.where(sums == 0, 1.0, sums) ** -0.5
        weight = scale[row] * weight * scale[column]
        return sparse(whole.indices(), weight, count)


@register_step("lposs_plus")
@dataclass(frozen=True, kw_only=True)
class LPOSSPlus(Step):
    """LPOSS+'s second half, behind ``lposs``: propagation over the pixels of a square, by similarity in colour.

    Fields:
        alpha, iterations: as in `LPOSS`.
        radius: side r of the square, in pixels.
        tau: difference in CIELAB (L/100, a/128, b/128) at which the similarity is 1/e.
    """

    summary: ClassVar[str] = "spread labels over pixels of similar colour; behind lposs"
    source: ClassVar[str] = "LPOSS, arXiv 2503.19777"
    on: ClassVar[Place] = "pixels"
    gives: ClassVar[Kind | None] = "logit"
    alpha: float = field_of(
        0.95, "propagation weight: 0 keeps own scores; near 1, neighbours decide", low=0, high=0.999
    )
    iterations: int = field_of(10, "of conjugate gradients", low=1)
    radius: int = field_of(13, "side of the square of neighbours, in pixels", low=3, high=99)
    tau: float = field_of(0.01, "difference in colour at which the similarity is 1/e", above=0)

    def __call__(self, given: PixelScores) -> TiledMap:
        pixels = given.shown.plain().to(given.device)
        return TiledMap(self.of_pixels(given.at(given.cut).full(), pixels), limits=given.limits)

    def of_pixels(self, scores: Tensor, pixels: Tensor) -> Tensor:
        """Scores (H, W, K) and pixels (3, H, W) of values 0 to 1 to new scores (H, W, K)."""
        colours, half = lab(pixels), self.radius // 2
        height, width = colours.shape[1:]
        # One of each pair of opposite shifts: the graph is symmetric.
        shifts = [(y, x) for y in range(half + 1) for x in range(-half, half + 1) if y > 0 or x > 0]
        shifts = [(y, x) for y, x in shifts if y < height and abs(x) < width]
        weights = []
        sums = torch.zeros(height, width, dtype=torch.double, device=pixels.device)
        for y, x in shifts:
            here, there = parts(height, width, y, x)
            weight = torch.exp(-(colours[(..., *here)] - colours[(..., *there)]).norm(dim=0) / self.tau).double()
            weights.append(weight)
            sums[here] += weight
            sums[there] += weight
        scale = torch.where(sums == 0, 1.0, sums) ** -0.5

        def system(z: Tensor) -> Tensor:
            scaled = (scale[..., None] * z).permute(2, 0, 1)
            heard = torch.zeros_like(scaled)
            # In bands of rows, which stay in a processor's cache through all shifts.
            for top in range(0, height, BAND_ROWS):
                bottom = min(top + BAND_ROWS, height)
                for (y, x), weight in zip(shifts, weights, strict=True):
                    left, right = max(0, -x), width - max(0, x)
                    end, start = min(bottom, height - y), max(top, y)
                    if end > top:
                        above = scaled[:, top + y : end + y, left + x : right + x]
                        heard[:, top:end, left:right].addcmul_(weight[top:end], above)
                    if bottom > start:
                        below = scaled[:, start - y : bottom - y, left:right]
                        heard[:, start:bottom, left + x : right + x].addcmul_(weight[start - y : bottom - y], below)
            return z - self.alpha * scale[..., None] * heard.permute(1, 2, 0)

        at_once = max(1, VALUES_AT_ONCE // (height * width))
        names = [  # names first in memory, so that pixels of a row are side by side
            conjugate_gradients(system, part.permute(2, 0, 1).double().contiguous().permute(1, 2, 0), self.iterations)
            for part in scores.split(at_once, dim=2)
        ]
        return torch.cat([part.to(scores.dtype) for part in names], dim=2)


@register_step("merge")
@dataclass(frozen=True, kw_only=True)
class Merge(Step):
    """Gives each name the best score of its class at the size of the resized picture, before the last resize.

    LPOSS's authors merge names there. Without this step names are merged at the picture's own size.
    """

    summary: ClassVar[str] = "merge the names of a class before the last resize, as in LPOSS's code"
    source: ClassVar[str] = "LPOSS, arXiv 2503.19777"
    on: ClassVar[Place] = "pixels"

    def __call__(self, given: PixelScores) -> TiledMap:
        return TiledMap(merged(given.at(given.cut).full(), given.words.class_of_name), limits=given.limits)


def merged(scores: Tensor, class_of_name: Sequence[int]) -> Tensor:
    """Scores of names (…, K) with those of each class's best name."""
    index = torch.tensor(class_of_name, device=scores.device).expand_as(scores)
    return scores.scatter_reduce(-1, index, scores, "amax", include_self=False).gather(-1, index)


def parts(height: int, width: int, y: int, x: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Of all pixels those that have a neighbour at (y, x), y from 0 on, and those neighbours."""
    left, right = max(0, -x), max(0, x)
    here = slice(0, height - y), slice(left, width - right)
    there = slice(y, height), slice(left + x, width - right + x)
    return here, there


def sparse(places: Tensor, weights: Tensor, count: int) -> Tensor:
    """(count, count); weights of one place are added."""
    return torch.sparse_coo_tensor(places, weights, (count, count), check_invariants=False).coalesce()


def places(given: PatchScores) -> Tensor:
    """(N, 2): the centre pixel of each patch of each window, row and column in the picture."""
    (h, w), (ph, pw) = given.scores.shape[1:3], given.patch_size
    rows, columns = torch.arange(h) * ph + ph // 2, torch.arange(w) * pw + pw // 2
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    corners = torch.tensor([(top, left) for top, left, *_ in given.boxes])
    return (corners[:, None] + grid).flatten(0, 1).float().to(given.scores.device)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve ``system`` z = ``right`` for each name, the last dimension, from 0: ``iterations`` at most, stopping where
    ‖residual‖ ≤ 1e-6 ‖right‖."""
    over = tuple(range(right.dim() - 1))
    solved, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    squared = residual.square().sum(dim=over)
    enough = 1e-12 * squared
    for _ in range(iterations):
        going = squared > enough
        if not going.any():
            break
        image = system(direction)
        curvature = (direction * image).sum(dim=over)
        step = torch.where(going, squared / curvature, 0.0)
        solved = solved + step * direction
        residual = residual - step * image
        before, squared = squared, torch.where(going, residual.square().sum(dim=over), squared)
        direction = torch.where(going, residual + squared / before * direction, direction)
    return solved


def lab(pixels: Tensor) -> Tensor:
    """sRGB of values 0 to 1, (3, H, W), to CIELAB as (L/100, a/128, b/128)."""
    linear = torch.where(pixels > 0.04045, ((pixels + 0.055) / 1.055) ** 2.4, pixels / 12.92)
    matrix = pixels.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = pixels.new_tensor([0.95047, 1.0, 1.08883])[:, None, None]
    xyz = torch.einsum("ij,jhw->ihw", matrix, linear) / white
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([(116 * y - 16) / 100, 500 * (x - y) / 128, 200 * (y - z) / 128])
