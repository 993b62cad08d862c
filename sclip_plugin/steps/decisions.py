"""Steps on the label map that need no second model: thresholds, the benchmarks' rules, closing, votes of regions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import SettingError
from ..fields import field_of
from ..imaging.regions import without_specks
from ..masks import mask_vote
from .base import Decided, Place, Step
from .registry import register_step
from .scores import NameScores

UNLABELLED = -1


@register_step("benchmark")
@dataclass(frozen=True, kw_only=True)
class Benchmark(Step):
    """The two rules of SCLIP's benchmarks, where class 0 is background.

    First, small classes other than 0 are dropped, and their pixels take the next best class. Then pixels with a low
    best score become class 0.

    Fields:
        prob: pixels with a lower best score become class 0.
        area: drop classes that cover at most this fraction of the foreground (all pixels not in class 0).
    """

    summary: ClassVar[str] = "the benchmarks' rules: unlikely pixels become class 0, small classes are dropped"
    source: ClassVar[str] = "SCLIP, arXiv 2312.01597"
    on: ClassVar[Place] = "labels"
    prob: float = field_of(0.0, "pixels with a lower best score become class 0", low=0, high=1)
    area: float | None = field_of(
        None,
        "drop classes that cover at most this fraction of the foreground (all pixels not in class 0)",
        low=0,
        high=1,
    )

    def __call__(self, given: Decided) -> Decided:
        scores = given.scores
        if self.area is not None:
            areas = np.bincount(given.labels[given.labels > 0], minlength=scores.classes())[1:]
            small = np.flatnonzero(~(areas > self.area * areas.sum())) + 1 if areas.sum() else ()
            if len(small):
                names = _of_names(scores, "benchmark(area=…)")
                scores = dataclasses.replace(names, dropped=names.dropped | {int(index) for index in small})
        if scores is given.scores and not self.prob:
            return given
        labels = np.empty_like(given.labels)
        for place, best, index in scores.best(given.labels.shape):
            labels[place] = index.masked_fill(best < self.prob, 0).to(torch.int16).cpu().numpy()
        return given.changed(labels=labels, scores=scores)


@register_step("threshold")
@dataclass(frozen=True, kw_only=True)
class Threshold(Step):
    """Leaves pixels with a low best score, or a low best cosine, unlabelled.

    Fields:
        probability: least score of the best class.
        cosine: least cosine of the best name; an error if an earlier step turned cosines into other scores.
    """

    summary: ClassVar[str] = "leave pixels with a lower best score, or a lower best cosine, unlabelled"
    on: ClassVar[Place] = "labels"
    probability: float = field_of(0.0, "least score of the best class", low=0, high=1)
    cosine: float | None = field_of(None, "least cosine of the best name", low=-1, high=1)

    def __call__(self, given: Decided) -> Decided:
        labels = given.labels.copy()
        if self.probability:
            for place, best, _ in given.scores.best(labels.shape):
                labels[place][(best < self.probability).cpu().numpy()] = UNLABELLED
        if self.cosine is not None:
            names = _of_names(given.scores, "threshold(cosine=…)")
            if names.kind != "cosine":
                raise SettingError(
                    f"threshold(cosine={self.cosine}): a step before it made {names.kind} scores of the cosines; "
                    "expected a threshold on probability, such as threshold(0.4), or a list without that step."
                )
            for place, best, _ in names.best(labels.shape, raw=True):
                labels[place][(best < self.cosine).cpu().numpy()] = UNLABELLED
        return given.changed(labels=labels)


@register_step("normalize")
@dataclass(frozen=True, kw_only=True)
class Normalize(Step):
    """Divides class scores by their sum, as in NACLIP's code. Labels stay the same."""

    summary: ClassVar[str] = "divide class scores by their sum; labels stay the same"
    source: ClassVar[str] = "NACLIP, arXiv 2404.08181"
    on: ClassVar[Place] = "labels"

    def __call__(self, given: Decided) -> Decided:
        return given.changed(scores=dataclasses.replace(_of_names(given.scores, "normalize"), normalised=True))


@register_step("closing")
@dataclass(frozen=True, kw_only=True)
class Closing(Step):
    """Morphological closing of the label map: the maximum over each square, then the minimum of those.

    Fields:
        side: kernel size in pixels, odd.
    """

    summary: ClassVar[str] = "morphological closing of the label map"
    source: ClassVar[str] = "ITACLIP, arXiv 2411.12044"
    on: ClassVar[Place] = "labels"
    side: int = field_of(3, "kernel size in pixels, odd", low=1, high=99)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 2 == 0:
            raise SettingError(f"closing got side={self.side}; expected an odd number of pixels, such as 3.")

    def __call__(self, given: Decided) -> Decided:
        labels = torch.from_numpy(given.labels).float()[None, None]
        dilated = F.max_pool2d(labels, self.side, stride=1, padding=self.side // 2)
        closed = -F.max_pool2d(-dilated, self.side, stride=1, padding=self.side // 2)
        return given.changed(labels=closed[0, 0].numpy().astype(given.labels.dtype))


@register_step("specks")
@dataclass(frozen=True, kw_only=True)
class Specks(Step):
    """Small regions take the label that most of their border has: what PAMR leaves of a few pixels goes.

    Fields:
        share: connected regions that cover less than this fraction of the picture go.
    """

    summary: ClassVar[str] = "small connected regions take the label around them"
    on: ClassVar[Place] = "labels"
    share: float = field_of(0.001, "least fraction of the picture that a region covers", low=0, high=1)

    def __call__(self, given: Decided) -> Decided:
        return given.changed(labels=without_specks(given.labels, math.ceil(self.share * given.labels.size)))


@register_step("vote")
@dataclass(frozen=True, kw_only=True)
class Vote(Step):
    """Map correction: gives every region of the settings' masks its most frequent label."""

    summary: ClassVar[str] = "give every region of the masks its most frequent label (map correction)"
    source: ClassVar[str] = "CorrCLIP, arXiv 2411.10086"
    on: ClassVar[Place] = "labels"
    needs_regions: ClassVar[bool] = True

    def __call__(self, given: Decided) -> Decided:
        return given.changed(labels=mask_vote(given.labels, given.shown.known_regions("the step vote")))


def _of_names(scores: object, who: str) -> NameScores:
    if not isinstance(scores, NameScores):
        raise SettingError(
            f"{who} works on the scores of names, and a step before it gave scores of classes alone; put it before "
            "that step."
        )
    return scores
