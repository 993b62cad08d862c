"""Threshold and slope of a null of presence from a few annotated pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import FileFormatError, PictureError, SettingError
from ..evaluation.calibration import Calibration
from ..imaging.pictures import read_picture
from ..steps.presence import Presence
from ..text.labels import Labels, parse_labels
from .base import Examples
from .learning import classes_of, source_of

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter

FEWEST, FOLDS = 3, 10
PROBE = 0.01
"""Slope at which numbers of presence are far from 0 and 1, so that the peaks can be read off them."""


@dataclass(frozen=True)
class Fitted:
    """What annotated pictures gave.

    Fields:
        null: with the threshold and slope of all pictures.
        pictures: how many were read.
        before: calibration of the null as it was.
        after: calibration of nulls fitted to the other pictures, a tenth left out at a time.
        problems: what was left out, in sentences.
    """

    null: Presence
    pictures: int
    before: Calibration
    after: Calibration
    problems: tuple[str, ...]

    @property
    def gains(self) -> bool:
        """Whether the Brier score of left-out pictures is lower than before."""
        return self.after.brier < self.before.brier


def fit(segmenter: Segmenter, examples: Examples, null: Presence | None = None, labels: Labels | None = None) -> Fitted:
    """Fit threshold and slope of a null.

    Args:
        segmenter: with the settings that the null was learned with.
        examples: of `read_examples`; every offered word must be annotated wherever it is.
        null: what to start from; None: the one that came with the model.
        labels: what is offered, as for a segmenter's call; None: the annotations' categories.

    Raises:
        SettingError: fewer than three pictures, no null, or one of another model or other settings.
        LabelError: no annotated category is one of the labels.

    Example:
        >>> from sclip_plugin.examples.presence import fit
        >>> from sclip_plugin.examples.reading import read_examples
        >>> fit(seg, read_examples("annotations.json")).null.save("presence.safetensors")  # doctest: +SKIP
    """
    null = null or segmenter.chain.null
    if null is None:
        raise SettingError("the model came without a null, and none was given; make one with sclip presence build.")
    vocabulary = parse_labels(examples.categories if labels is None else labels, False)
    table = classes_of(examples.categories, vocabulary)
    probe = dataclasses.replace(null, threshold=0.0, slope=PROBE)
    problems, seen = list(examples.problems), []
    for item in examples.items:
        try:
            label_map, picture = item.label_map(examples.categories), read_picture(source_of(item))
        except (FileFormatError, PictureError, OSError) as error:
            problems.append(f"left out: {error}")
            continue
        there = {table[index] for index in np.unique(label_map[label_map >= 0]).tolist()}
        presence = segmenter(picture, vocabulary, present=probe).presence
        numbers = torch.tensor(list(presence.values()), dtype=torch.float64)
        truth = np.array([vocabulary.labels.index(label) in there for label in presence])
        seen.append((torch.logit(numbers) / PROBE, truth))
    if len(seen) < FEWEST:
        raise SettingError(f"presence was given {len(seen)} annotated pictures; expected {FEWEST} or more.")
    before, after = Calibration(), Calibration()
    for fold in range(min(FOLDS, len(seen))):
        others = _fitted(null, [each for index, each in enumerate(seen) if index % FOLDS != fold])
        for standings, truth in seen[fold::FOLDS]:
            for by, into in ((null, before), (others, after)):
                into.add(torch.sigmoid(by.slope * (standings - by.threshold)).numpy(), truth)
    return Fitted(_fitted(null, seen), len(seen), before, after, tuple(problems))


def _fitted(null: Presence, seen: Sequence[tuple[torch.Tensor, np.ndarray]]) -> Presence:
    there = torch.from_numpy(np.concatenate([truth for _, truth in seen]))
    return null.fitted(torch.cat([standings for standings, _ in seen]), there)
