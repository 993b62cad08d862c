"""What a score of 0.8 means: how often scores are right, for presence of words and for the scores of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..segment.segmentation import Segmentation

BINS = 10
EVERY = 8
"""Of pixels one in so many rows and columns is compared: neighbours say the same."""


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture.

    Fields:
        label_map: (H, W) integers, positions in the benchmark's classes or -1.
        presence: (C,) how surely each class is in the picture, 0 to 1, nan where unknown; None: not asked.
        confidence: (h, w) score, 0 to 1, of the label that each sampled pixel carries; see `sampled`; None: no scores.
    """

    label_map: np.ndarray
    presence: np.ndarray | None = None
    confidence: np.ndarray | None = None

    @classmethod
    def of(cls, result: Segmentation) -> Answer:
        """The answer of a segmenter."""
        there = result.presence
        size = sampled(result.label_map).shape
        labels = np.maximum(sampled(result.label_map), 0).astype(np.int64)[None]
        confidence = np.zeros(size, np.float32)
        for (rows, columns), scores in result.score_tiles(size=size):
            own = np.take_along_axis(scores.numpy(), labels[:, rows, columns], axis=0)
            confidence[rows, columns] = own[0]
        numbers = None if there is None else np.array([there.get(label, np.nan) for label in result.labels])
        return cls(result.label_map, numbers, confidence)


@dataclass
class Calibration:
    """Scores in ten bins of equal width, against what is true.

    Fields:
        table: (10, 4): number of scores in the bin, their sum, how many are right, sum of their squared errors.

    Example:
        >>> import numpy as np
        >>> from sclip_plugin.evaluation.calibration import Calibration
        >>> seen = Calibration()
        >>> seen.add(np.array([0.9, 0.8, 0.1]), np.array([True, False, False]))
        >>> seen.precision, seen.recall, round(seen.brier, 3)
        (0.5, 1.0, 0.22)
    """

    table: np.ndarray = field(default_factory=lambda: np.zeros((BINS, 4)))

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """Add scores, 0 to 1, and whether each is right; scores that are nan are left out."""
        known = ~np.isnan(scores)
        scores, right = scores[known].astype(np.float64), right[known].astype(np.float64)
        place = np.digitize(scores, np.arange(1, BINS) / BINS)
        for column, values in enumerate((np.ones_like(scores), scores, right, (scores - right) ** 2)):
            self.table[:, column] += np.bincount(place, values, minlength=BINS)

    @property
    def count(self) -> int:
        return int(self.table[:, 0].sum())

    @property
    def brier(self) -> float:
        """Mean squared error: 0 is perfect; always 0.5 gives 0.25."""
        return _ratio(self.table[:, 3].sum(), self.count)

    @property
    def gap(self) -> float:
        """Mean distance of what scores say and how often they are right (expected calibration error), 0 to 1."""
        return _ratio(np.abs(self.table[:, 1] - self.table[:, 2]).sum(), self.count)

    @property
    def precision(self) -> float:
        """Of the scores of 0.5 or more the share that is right."""
        return _ratio(self.table[BINS // 2 :, 2].sum(), self.table[BINS // 2 :, 0].sum())

    @property
    def recall(self) -> float:
        """Of what is right the share with a score of 0.5 or more."""
        return _ratio(self.table[BINS // 2 :, 2].sum(), self.table[:, 2].sum())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, shares from 0 to 1; None where nothing was seen."""
        said = {name: getattr(self, name) for name in ("precision", "recall", "brier", "gap")}
        bins = [
            {
                "from": index / BINS,
                "count": int(n),
                "score": total / n if n else None,
                "right": right / n if n else None,
            }
            for index, (n, total, right, _) in enumerate(self.table.tolist())
        ]
        return {"count": self.count, **{k: None if np.isnan(v) else v for k, v in said.items()}, "bins": bins}


def sampled(values: np.ndarray) -> np.ndarray:
    """Of (H, W) the middle of each block of 8 x 8 pixels, (h, w)."""
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int) for side in values.shape if (n := max(1, side // EVERY))
    )
    return values[np.ix_(rows, columns)]


def calibrations(answer: Answer, target: np.ndarray, ignore_index: int) -> dict[str, Calibration]:
    """The calibration of one picture: ``"presence"`` of its classes, and ``"pixels"``, as far as the model said them.

    Args:
        answer: of the model.
        target: (H, W) integers, classes, or ``ignore_index`` for pixels that are left out.
    """
    found: dict[str, Calibration] = {}
    if answer.presence is not None:
        there = np.isin(np.arange(len(answer.presence)), target[target != ignore_index])
        found["presence"] = Calibration()
        found["presence"].add(answer.presence, there)
    if answer.confidence is not None:
        labels, truth = sampled(answer.label_map), sampled(target)
        asked = (truth != ignore_index) & (labels >= 0)
        found["pixels"] = Calibration()
        found["pixels"].add(answer.confidence[asked], labels[asked] == truth[asked])
    return found


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
