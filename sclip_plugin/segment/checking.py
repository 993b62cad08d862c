"""Checks that labels, a label map, scores and a picture fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import LabelError, SettingError, ShapeError
from ..imaging.pictures import Picture, is_read, read_picture
from ..steps.scores import ClassScores, FirstClasses, GivenScores, NameScores

UNLABELLED = -1
LABELS_LIMIT = 2**15 - 1


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise LabelError(f"labels={labels!r:.200}; expected a list of names, such as ['cat', 'sofa'].")
    if not labels or len(labels) > LABELS_LIMIT or len(set(labels)) != len(labels):
        raise LabelError(
            f"{len(labels)} labels, {len(set(labels))} different; expected 1 to {LABELS_LIMIT}, each once."
        )
    return tuple(labels)


def checked_map(label_map: np.ndarray | Tensor, classes: int) -> np.ndarray:
    values = label_map.cpu().numpy() if isinstance(label_map, Tensor) else np.asarray(label_map)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "iu":
        raise ShapeError(
            f"the label map is {values.shape} of {values.dtype}; expected (H, W) integers, the indices into labels."
        )
    low, high = int(values.min()), int(values.max())
    if low < UNLABELLED or high >= classes:
        raise SettingError(
            f"the label map goes from {low} to {high}; expected 0 to {classes - 1} for {classes} labels, and "
            f"{UNLABELLED} where there is none."
        )
    return values.astype(np.int16, copy=False)


def checked_picture(picture: Picture | None, size: tuple[int, int]) -> Image.Image | None:
    if picture is None:
        return None
    if not is_read(picture):
        picture = read_picture(picture)
    assert isinstance(picture, Image.Image)
    if picture.size != size[::-1]:
        raise ShapeError(
            f"the picture is {picture.width} x {picture.height}, the label map {size[1]} x {size[0]}; expected one size"
            " for both."
        )
    return picture


def checked_scores(scores: np.ndarray | Tensor | ClassScores | None, shape: tuple[int, int, int]) -> ClassScores | None:
    """Class scores on the CPU.

    Raises:
        ShapeError: the scores do not fit ``shape``, (classes, height, width) of the label map.
    """
    if isinstance(scores, NameScores):
        return scores.on_cpu()
    if isinstance(scores, FirstClasses) and isinstance(scores.scores, NameScores):
        return replace(scores, scores=scores.scores.on_cpu())
    if isinstance(scores, GivenScores):
        scores = scores.values
    if scores is None or isinstance(scores, ClassScores):
        return scores
    values = scores.detach().float().cpu().numpy() if isinstance(scores, Tensor) else np.asarray(scores, np.float32)
    fits = values.ndim == 3 and len(values) == shape[0]
    if not fits or any(not 0 < have <= most for have, most in zip(values.shape, shape, strict=True)):
        raise ShapeError(
            f"the scores have shape {values.shape}; expected (classes, H, W), here {shape}, or smaller sides."
        )
    return GivenScores(values)
