"""Maps of words by SAM 3, computed from the few masks that count, and the results made of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..export.instances import Instance, Instances
from ..export.result import Regions
from ..imaging.resampling import bilinear_matrix
from ..methods.sam3 import Sam3, WordSeen
from ..text.labels import Vocabulary
from .segmentation import Segmentation
from .windows import WindowPlan


class FusedMaps:
    """The maps of words at every pixel, as `TiledMap` reads an array (H, W, K): a band of rows at a time.

    Args:
        method: the rule.
        plan: the windows.
        seen: of each window what the detector says of each word.
    """

    dtype = torch.float32

    def __init__(self, method: Sam3, plan: WindowPlan, seen: Sequence[Sequence[WordSeen]]) -> None:
        self.method, self.plan, self.seen = method, plan, seen
        self.shape = (*plan.size, len(seen[0]))
        self.device = seen[0][0].semantic.device

    def cpu(self) -> FusedMaps:
        return self.to("cpu")

    def to(self, device: torch.device | str) -> FusedMaps:
        return FusedMaps(self.method, self.plan, [[word.to(device) for word in words] for words in self.seen])

    def new_empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, device=self.device)

    def __getitem__(self, part: Any) -> Any:
        """Rows as a tensor (h, W, K); or, by ``[..., chosen]``, the maps of the chosen words."""
        if isinstance(part, tuple):
            chosen = part[1].nonzero().flatten().tolist()
            return FusedMaps(self.method, self.plan, [[words[i] for i in chosen] for words in self.seen])
        first, last, _ = part.indices(self.shape[0])
        out = torch.zeros(last - first, *self.shape[1:], device=self.device)
        covered = torch.zeros(last - first, self.shape[1], 1, device=self.device)
        height, width = self.plan.window
        for (top, left, *_), words in zip(self.plan.boxes(), self.seen, strict=True):
            above, below = max(first, top), min(last, top + height)
            if above >= below:
                continue
            place = slice(above - first, below - first), slice(left, left + width)
            covered[place] += 1
            for index, word in enumerate(words):
                rows, columns = _operators(tuple(word.semantic.shape), (height, width))
                rows, columns = rows[above - top : below - top].to(self.device), columns.to(self.device)
                out[(*place, index)] += self.method.fused(word, rows, columns)
        return out / covered


@lru_cache(maxsize=8)
def _operators(grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return bilinear_matrix(grid[0], size[0]), bilinear_matrix(grid[1], size[1])


class Sam3Segmentation(Segmentation):
    """A `Segmentation` by SAM 3, which knows its own instances."""

    maps: FusedMaps | None = None
    vocabulary: Vocabulary | None = None

    def instances(self, regions: Regions = "components", min_area: int = 0) -> Instances:
        """SAM 3's own instances with their scores, of at least ``min_area`` pixels, the largest first.

        They may overlap. Those of a label that paints nothing are left out. With windows, with ``"classes"``, and of a
        label map that was changed: as of any `Segmentation`.
        """
        maps, words = self.maps, self.vocabulary
        if maps is None or words is None or regions != "components" or len(maps.plan) > 1:
            return super().instances(regions, min_area)
        painted = {label for label, area in self.areas().items() if area}
        rows, columns = _operators(tuple(maps.seen[0][0].semantic.shape), self.size)
        found = []
        for word, index in zip(maps.seen[0], words.class_of_name, strict=True):
            if index < len(self.labels) and self.labels[index] in painted:
                for logits, score in zip(word.masks, word.scores.tolist(), strict=True):
                    found += _instance(self.labels[index], index, (rows @ logits @ columns.T > 0).numpy(), score)
        found = [item for item in found if item.area >= min_area]
        return Instances(sorted(found, key=lambda item: -item.area), self.size)

    def cleaned(self, min_area: int) -> Segmentation:
        cleaned = cast(Sam3Segmentation, super().cleaned(min_area))
        cleaned.maps = None
        return cleaned


def _instance(label: str, index: int, mask: np.ndarray, score: float) -> list[Instance]:
    """The mask (H, W), cut to its box; nothing where it is empty."""
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    size = (mask.shape[0], mask.shape[1])
    return [Instance(label, index, (left, top, right, bottom), mask[top:bottom, left:right].copy(), size, score)]
