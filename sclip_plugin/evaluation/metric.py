"""mIoU as MMSegmentation's IoUMetric defines it: intersections and unions summed over the whole set, in integers.

Integers make the figures independent of the order and the number of processes: the same to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import SclipError, SettingError

Counts = NDArray[np.int64]


class LabelRangeError(SclipError, ValueError):
    """A label map or a mask holds a value that names no class."""


def count_picture(prediction: np.ndarray, target: np.ndarray, num_classes: int, ignore_index: int = 255) -> Counts:
    """Pixel counts of one picture: all that its part in the set's mIoU depends on.

    Args:
        prediction: (H, W) integers, classes 0 to num_classes - 1, or -1 for a pixel that no class was given to; such a
            pixel counts as wrong.
        target: (H, W) integers, classes as in the prediction, or ``ignore_index`` for a pixel that is left out.
        num_classes: C.
        ignore_index: value of pixels left out.

    Returns: (3, C) int64: pixels where both agree on the class, pixels predicted as it, pixels labelled as it. Pixels
        that are left out are in none of them.

    Raises:
        ValueError: the shapes differ.
        LabelRangeError: a value names no class.

    >>> count_picture(np.array([[0, 1]]), np.array([[0, 0]]), num_classes=2).tolist()
    [[1, 0], [1, 1], [2, 0]]
    """
    if prediction.shape != target.shape:
        raise SettingError(f"prediction of shape {prediction.shape} and target of shape {target.shape} must agree.")
    if prediction.size == 0:
        return np.zeros((3, num_classes), np.int64)
    check_labels("prediction", prediction, 0, num_classes, allowed=(-1,))
    check_labels("target", target, 0, num_classes, allowed=(ignore_index,))

    # One histogram of the pairs (target, prediction) gives all three counts. Two bytes hold a pair of up to 255 classes
    # and one code for "none", which is twice as fast as any wider integer.
    if num_classes < 256:
        base = 256
        target = target if ignore_index == 255 else np.where(target == ignore_index, 255, target)
        target = target.astype(np.uint8)
        pairs = (target.astype(np.uint16) << 8) | prediction.astype(np.uint8)
    else:
        base = num_classes + 1
        target = np.where(target == ignore_index, num_classes, target).astype(np.int64)
        pairs = target * base + np.where(prediction < 0, num_classes, prediction)
    joint = np.bincount(pairs.ravel(), minlength=base * base).reshape(base, base)[:num_classes]
    intersection, predicted, labelled = joint.diagonal(), joint.sum(axis=0)[:num_classes], joint.sum(axis=1)
    return np.stack([intersection, predicted, labelled]).astype(np.int64)


def check_labels(what: str, values: np.ndarray, low: int, high: int, allowed: tuple[int, ...]) -> None:
    """Raise LabelRangeError unless all values are integers with low <= value < high, or one of ``allowed``."""
    if values.dtype.kind not in "iu":
        raise LabelRangeError(f"{what} holds {values.dtype} values; expected integers.")
    if values.size == 0 or (int(values.min()) >= low and int(values.max()) < high):
        return
    outside = (values < low) | (values >= high)
    for value in allowed:
        outside &= values != value
    if outside.any():
        wrong = np.unique(values[outside]).tolist()
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        none = " or ".join(map(str, allowed))
        raise LabelRangeError(
            f"{what} holds {shown}, which no class has; expected {low} to {high - 1}, or {none} for none."
        )


@dataclass
class IoUTotals:
    """Running sums over a set of pictures, and the figures they give.

    Fields:
        num_classes: C.
        ignore_index: value of target pixels that are left out.
        counts: (3, C) int64: intersection, predicted and labelled pixels of each class.

    >>> totals = IoUTotals(num_classes=2)
    >>> _ = totals.add(np.array([[0, 1]]), np.array([[0, 0]]))
    >>> totals.miou
    0.25
    """

    num_classes: int
    ignore_index: int = 255
    counts: Counts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, self.num_classes), np.int64)

    def add(self, prediction: np.ndarray, target: np.ndarray) -> Counts:
        """Add a picture's (H, W) label map and target; returns its own counts, as `count_picture` does."""
        counts = count_picture(prediction, target, self.num_classes, self.ignore_index)
        self.counts += counts
        return counts

    def merge(self, other: IoUTotals | Counts) -> None:
        """Add the sums of another set of pictures: of another process, or read from a log."""
        self.counts += other.counts if isinstance(other, IoUTotals) else other

    @property
    def intersection(self) -> Counts:
        """(C,) pixels where prediction and target agree."""
        return self.counts[0]

    @property
    def union(self) -> Counts:
        """(C,) pixels that either gives to the class."""
        return self.counts[1] + self.counts[2] - self.counts[0]

    @property
    def iou(self) -> NDArray[np.float64]:
        """(C,) intersection over union from 0 to 1; nan for a class in neither any prediction nor any target."""
        return _ratio(self.intersection, self.union)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(C,) share of a class's own pixels that were found; nan for a class without any."""
        return _ratio(self.intersection, self.counts[2])

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that have one."""
        return _mean(self.iou)

    @property
    def macc(self) -> float:
        """Mean of `accuracy` over the classes that have one."""
        return _mean(self.accuracy)

    @property
    def aacc(self) -> float:
        """Share of all pixels, not left out, that were given their class."""
        labelled = int(self.counts[2].sum())
        return int(self.counts[0].sum()) / labelled if labelled else float("nan")


def _ratio(part: Counts, whole: Counts) -> NDArray[np.float64]:
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
