"""Class scores at every pixel, one tile at a time: computed from the scores of names, or given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..imaging.tiles import TiledMap
from ..text.labels import Vocabulary

Kind = Literal["cosine", "logit", "probability"]
"""Kind of the scores of names. A softmax over names turns cosines and logits into probabilities."""

Tiles = Iterator[tuple[tuple[slice, slice], Tensor]]
SCORES_LIMIT = 2**26


class ClassScores(ABC):
    """Scores of classes at every pixel."""

    @abstractmethod
    def tiles(self, size: tuple[int, int], device: torch.device | None = None) -> Tiles:
        """(rows, columns) of each tile of a picture of ``size``, and the tile's scores (classes, h, w)."""

    @abstractmethod
    def classes(self) -> int: ...

    def full(self, size: tuple[int, ...]) -> np.ndarray:
        """(classes, h, w) float32 at ``size``, or at the largest size of the same proportions that takes 256 MiB."""
        height, width = size
        shrink = max(1.0, (height * width * self.classes() / SCORES_LIMIT) ** 0.5)
        shape = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        out = np.empty((self.classes(), *shape), dtype=np.float32)
        for (rows, columns), scores in self.tiles(shape):
            out[:, rows, columns] = scores.cpu().numpy()
        return out

    def best(self, size: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], Tensor, Tensor]]:
        """(rows, columns) of each tile, the score (h, w) of the best class, and that class (h, w)."""
        for place, scores in self.tiles(size):
            best, index = scores.max(dim=0)
            yield place, best, index


@dataclass(frozen=True)
class NameScores(ClassScores):
    """Class scores, computed on demand from the scores of names.

    Fields:
        maps: scores of names, at the size of the label map.
        vocabulary: maps names to classes.
        kind: kind of the scores in ``maps``.
        logit_scale: factor on cosines and logits before the softmax.
        dropped: classes that can't be chosen; their scores are 0.
        normalised: divide class scores by their sum.
    """

    maps: TiledMap
    vocabulary: Vocabulary
    kind: Kind
    logit_scale: float
    dropped: frozenset[int] = frozenset()
    normalised: bool = False

    def on_cpu(self) -> NameScores:
        return replace(self, maps=replace(self.maps, values=self.maps.values.cpu()))

    def classes(self) -> int:
        return len(self.vocabulary.labels)

    def tiles(self, size: tuple[int, int], device: torch.device | None = None) -> Tiles:
        maps = self.maps if size == self.maps.size else self.maps.resized(size)
        if device is not None:
            maps = replace(maps, values=maps.values.to(device))
        for place, tile in maps.tiles():
            yield place, self.of_classes(tile)

    def of_classes(self, tile: Tensor) -> Tensor:
        """Scores of names (h, w, K) to scores of classes (classes, h, w): softmax over names, maximum per class."""
        scores = tile if self.kind == "probability" else (tile * self.logit_scale).softmax(dim=-1)
        scores = scores.permute(2, 0, 1).contiguous()
        if len(self.vocabulary.labels) != len(self.vocabulary.names):
            index = torch.tensor(self.vocabulary.class_of_name, device=tile.device)[:, None, None].expand_as(scores)
            empty = scores.new_zeros(len(self.vocabulary.labels), *scores.shape[1:])
            scores = empty.scatter_reduce(0, index, scores, "amax", include_self=False)
        if self.dropped:
            scores[sorted(self.dropped)] = 0
        return scores / scores.sum(dim=0) if self.normalised else scores

    def best(
        self, size: tuple[int, int], scored: bool = True, raw: bool = False
    ) -> Iterator[tuple[tuple[slice, slice], Tensor, Tensor]]:
        """As in `ClassScores`, without forming all class scores; dropped classes are never the best.

        Args:
            size: (height, width) of the label map.
            scored: False skips the softmax and returns the scores of names.
            raw: return the scores of names unchanged, such as cosines.
        """
        maps = self.maps if size == self.maps.size else self.maps.resized(size)
        class_of_name = torch.tensor(self.vocabulary.class_of_name, device=maps.values.device)
        gone = torch.tensor([c in self.dropped for c in self.vocabulary.class_of_name], device=maps.values.device)
        softmax = scored and not raw and self.kind != "probability"
        if self.dropped and not softmax:  # then the dropped names are not even computed
            maps, class_of_name = replace(maps, values=maps.values[..., ~gone]), class_of_name[~gone]
        for place, tile in maps.tiles():
            # The softmax keeps the order, so the best class is that of the best name.
            total = (tile * self.logit_scale).logsumexp(dim=-1) if softmax else None
            best, name = (tile.masked_fill(gone, -torch.inf) if self.dropped and softmax else tile).max(dim=-1)
            score = best if total is None else (best * self.logit_scale - total).exp()
            yield place, score, class_of_name[name]


@dataclass(frozen=True)
class FirstClasses(ClassScores):
    """The scores of the first ``count`` classes of others."""

    scores: ClassScores
    count: int

    def classes(self) -> int:
        return self.count

    def tiles(self, size: tuple[int, int], device: torch.device | None = None) -> Tiles:
        for place, tile in self.scores.tiles(size, device):
            yield place, tile[: self.count]


@dataclass(frozen=True)
class GivenScores(ClassScores):
    """Given class scores, (classes, h, w), of the picture's size or smaller."""

    values: np.ndarray

    def classes(self) -> int:
        return len(self.values)

    def tiles(self, size: tuple[int, int], device: torch.device | None = None) -> Tiles:
        maps = TiledMap(torch.from_numpy(self.values).permute(1, 2, 0).to(device))
        for place, tile in (maps if size == maps.size else maps.resized(size)).tiles():
            yield place, tile.permute(2, 0, 1)
