"""Class scores at every pixel, a tile at a time: of a segmenter, computed from its names', or given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError, ShapeError
from ..settings import Settings
from ..text.labels import Vocabulary
from .windows import LogitMap

Tiles = Iterator[tuple[tuple[slice, slice], Tensor]]


@dataclass(frozen=True)
class NameScores:
    """Class scores that are computed when they are asked for, from the scores of names; on the CPU until then."""

    logits: LogitMap
    vocabulary: Vocabulary
    settings: Settings
    dropped: frozenset[int] = frozenset()

    def on_cpu(self) -> NameScores:
        return replace(self, logits=replace(self.logits, logits=self.logits.logits.cpu()))

    def tiles(self, size: tuple[int, int], device: torch.device | None) -> Tiles:
        logits = self.logits if size == self.logits.size else self.logits.resized(size)
        for place, tile in replace(logits, logits=logits.logits.to(device)).tiles():
            yield place, class_scores(tile, self.vocabulary, self.settings, self.dropped)


@dataclass(frozen=True)
class GivenScores:
    """Class scores that somebody had already, (classes, h, w), of the picture's size or smaller."""

    values: np.ndarray

    def tiles(self, size: tuple[int, int], device: torch.device | None) -> Tiles:
        maps = LogitMap(torch.from_numpy(self.values).permute(1, 2, 0).to(device))
        for place, tile in (maps if size == maps.size else maps.resized(size)).tiles():
            yield place, tile.permute(2, 0, 1)


class MovingMean:
    """The exponentially weighted mean of what is given one after the other.

    Args:
        share: of all before in each mean, from 0 to below 1.

    Raises:
        SettingError: another share.

    Example:
        >>> import torch
        >>> mean = MovingMean(0.75)
        >>> [float(mean(torch.tensor([value]))) for value in (0.0, 1.0, 1.0)]
        [0.0, 0.25, 0.4375]
    """

    def __init__(self, share: float) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise SettingError(
                f"smoothing={share!r}; expected the share of the frames before, from 0 (each by itself) to below 1."
            )
        self.share = share
        self._before: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """The mean so far; of values of another shape than those before it begins anew."""
        if not self.share:
            return values
        if self._before is not None and self._before.shape == values.shape:
            values = torch.lerp(values, self._before, self.share)
        self._before = values
        return values


def class_scores(tile: Tensor, vocabulary: Vocabulary, settings: Settings, dropped: frozenset[int]) -> Tensor:
    """Scores of names (h, w, K) to scores of classes (classes, h, w): softmax over names, maximum over a class's."""
    scores = (tile * settings.logit_scale).softmax(dim=-1) if settings.softmax else tile
    scores = scores.permute(2, 0, 1).contiguous()
    if len(vocabulary.labels) != len(vocabulary.names):
        index = torch.tensor(vocabulary.class_of_name, device=tile.device)[:, None, None].expand_as(scores)
        empty = scores.new_zeros(len(vocabulary.labels), *scores.shape[1:])
        scores = empty.scatter_reduce(0, index, scores, "amax", include_self=False)
    if dropped:
        scores[sorted(dropped)] = 0
    return scores / scores.sum(dim=0) if settings.normalize_scores else scores


def checked_scores(
    scores: np.ndarray | Tensor | NameScores | None, shape: tuple[int, int, int]
) -> NameScores | GivenScores | None:
    if scores is None:
        return None
    if isinstance(scores, NameScores):
        return scores.on_cpu()
    values = scores.detach().float().cpu().numpy() if isinstance(scores, Tensor) else np.asarray(scores, np.float32)
    fits = values.ndim == 3 and len(values) == shape[0]
    if not fits or any(not 0 < have <= most for have, most in zip(values.shape, shape, strict=True)):
        raise ShapeError(
            f"the scores have shape {values.shape}; expected (classes, H, W), here {shape}, or smaller sides."
        )
    return GivenScores(values)
