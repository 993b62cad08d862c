"""The step ``pearl``: spreads scores over a coarse grid of the picture, along its grey values (arXiv 2603.21528)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from ..imaging.tiles import TiledMap
from .base import PixelScores, Place, Step
from .registry import register_step

STEPS = 25


@register_step("pearl")
@dataclass(frozen=True, kw_only=True)
class Propagation(Step):
    """Solves (D + L) f = D s for the scores s on a grid: confident cells keep theirs, and L joins alike neighbours.

    The system is solved in double precision. The authors solve it in single precision, where rounding decides: a change
    of their input by 1e-7 moves their result by up to 9e-3.

    Fields:
        cells: cells along a side of the grid, about; the authors take 224 on Cityscapes.
    """

    summary: ClassVar[str] = "spread scores over a coarse grid, along the picture's grey values"
    source: ClassVar[str] = "PEARL, arXiv 2603.21528"
    on: ClassVar[Place] = "pixels"
    cells: int = field_of(80, "cells along a side of the grid, about", low=1, high=4096)

    def __call__(self, given: PixelScores) -> TiledMap:
        height, width = given.size
        factors = tuple(max(1, round(side / self.cells)) for side in given.size)
        maps = given.at(given.size)
        scores = pooled(maps, factors).full().double()
        pixels = given.shown.normalised().to(given.device)[None].float()
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
        colours = F.avg_pool2d(pixels, factors)[0].double()
        solved = propagated(scores, colours, given.words.text.to(scores))
        return TiledMap(solved.to(maps.values.dtype), limits=given.limits).resized(given.size)


def pooled(maps: TiledMap, factors: tuple[int, ...]) -> TiledMap:
    """Means of ``factors`` pixels; what is left over at the right and at the bottom is cut off."""
    operators = []
    for side, factor, operator in zip(maps.size, factors, (maps.rows, maps.columns), strict=True):
        count = side // factor
        means = torch.zeros(count, side)
        means[torch.arange(count * factor) // factor, torch.arange(count * factor)] = 1 / factor
        operators.append(means if operator is None else means @ operator)
    return TiledMap(maps.values, operators[0], operators[1], maps.limits)


def propagated(scores: Tensor, colours: Tensor, text: Tensor) -> Tensor:
    """The scores (h, w, K) after 25 steps of conjugate gradients.

    Args:
        scores: cosines, in double precision.
        colours: (3, h, w), normalised.
        text: (K, D), unit embeddings of the names.
    """
    gates = gates_of(text)
    shares = scores.softmax(dim=2)
    gated = (gates * shares.square()).sum(dim=2).clamp(0, 1)
    kept = shares.amax(dim=2).clamp(min=0.05).square() * (1 + gated)
    grey = (colours * colours.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    down, across = (_likeness(grey, shares, gates, dim) for dim in (0, 1))

    def system(values: Tensor) -> Tensor:
        out = kept[..., None] * values
        flow = down[..., None] * values.diff(dim=0)
        out[:-1] -= flow
        out[1:] += flow
        flow = across[..., None] * values.diff(dim=1)
        out[:, :-1] -= flow
        out[:, 1:] += flow
        return out

    return _solved(system, kept[..., None] * scores, scores)


def gates_of(text: Tensor) -> Tensor:
    """(K,) weight of each name: the diagonal of softmax(t tᵀ / 0.5) + 10 I, whose rows are divided by their sums.

    The authors' code uses the diagonal alone, so names do not mix.
    """
    alike = (text @ text.T / 0.5).softmax(dim=1) + 10 * torch.eye(len(text), device=text.device, dtype=text.dtype)
    return alike.diagonal() / (alike.sum(dim=1) + 1e-6)


def _likeness(grey: Tensor, shares: Tensor, gates: Tensor, dim: int) -> Tensor:
    """Weights between neighbours along a dimension, 0 to 1."""
    apart = grey.diff(dim=dim).abs()
    if not apart.numel():
        return apart
    count = shares.shape[dim] - 1
    both = (gates * shares.narrow(dim, 0, count) * shares.narrow(dim, 1, count)).sum(dim=2).clamp(0, 1)
    return (torch.exp(-5 * apart / (apart.mean() + 1e-6)) * (1 + both)).clamp(0, 1)


def _solved(system: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
    """Conjugate gradients of all names as one vector, always 25 steps."""
    solved = start
    residual = right - system(start)
    direction, squared = residual, residual.square().sum()
    for _ in range(STEPS):
        image = system(direction)
        step = squared / ((direction * image).sum() + 1e-12)
        solved, residual = solved + step * direction, residual - step * image
        before, squared = squared, residual.square().sum()
        direction = residual + squared / (before + 1e-12) * direction
    return solved
