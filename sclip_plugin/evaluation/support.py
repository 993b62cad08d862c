"""Examples for an evaluation: which training pictures teach the classes, drawn as Retrieve and Segment's authors do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..memory.examples import IGNORED
from .datasets import DatasetError, MaskError
from .sets import EvaluationSet
from .threads import map_ahead

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter
    from ..settings import Settings
    from ..text.labels import Labels
    from ..text.tuned import Tuned

CANDIDATES = 5000
"""Of more training pictures so many are looked at."""


def drawn(shown: np.ndarray, most: int, seed: int) -> list[int]:
    """The pictures that teach, ascending.

    Classes come in a random order. Of each class as many random pictures are taken as it lacks. A picture that is taken
    again for another class counts again for all that it shows.

    Args:
        shown: (N, K) bool, which classes each picture shows.
        most: pictures for each class.
        seed: of the order of classes, and of the pictures of each.

    Source: Retrieve and Segment, arXiv 2602.23339.

    Example:
        >>> import numpy as np
        >>> drawn(np.array([[True, False], [False, True], [True, True]]), most=1, seed=100)
        [0, 1]
    """
    import torch

    def order(count: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    counts, taken = np.zeros(shown.shape[1], int), set[int]()
    for index in order(shown.shape[1]):
        there = np.flatnonzero(shown[:, index])
        now = there[order(len(there))][: max(0, most - counts[index])]
        counts += shown[now].sum(axis=0)
        taken.update(now.tolist())
    return sorted(taken)


def taught(
    segmenter: Segmenter, labels: Labels, settings: Settings, data: EvaluationSet, most: int, seed: int
) -> tuple[Tuned, list[str]]:
    """Labels that are taught by training pictures.

    Args:
        segmenter, settings: what is evaluated.
        labels: the benchmark's classes, in its order.
        data: what is evaluated on; its ``training`` has the examples.
        most, seed: as for `drawn`.

    Returns:
        The labels with their examples, and what to say: pictures that were left out, classes without any.

    Raises:
        DatasetError: there are no training pictures.
    """
    if data.training is None:
        raise DatasetError(f"{data.benchmark.name} has no training pictures, from which examples are drawn.")
    training = data.training()
    names, benchmark = list(training.names), training.benchmark
    if len(names) > CANDIDATES:
        names = [names[i] for i in sorted(np.random.RandomState(seed).choice(len(names), CANDIDATES, replace=False))]

    def classes_in(name: str) -> np.ndarray | str:
        try:
            target = training.load(name)[1]
        except (MaskError, OSError) as error:
            return f"left out: {name}: {error}"
        return np.isin(np.arange(benchmark.num_classes), np.unique(target))

    found = list(zip(names, map_ahead(classes_in, names, 2), strict=True))
    usable = [(name, shown) for name, shown in found if not isinstance(shown, str)]
    said = [shown for _, shown in found if isinstance(shown, str)]
    if not usable:
        raise DatasetError(f"no training picture of {benchmark.name} can be used: {'; '.join(said[:3]) or 'none'}.")
    chosen = [usable[place][0] for place in drawn(np.stack([shown for _, shown in usable]), most, seed)]

    def masks() -> Iterator[np.ndarray]:
        for name in chosen:
            target = training.load(name)[1]
            yield np.where(target == benchmark.ignore_index, IGNORED, target.astype(np.int32))

    tuned = segmenter.tune((training.load(name)[0] for name in chosen), masks(), labels, settings)
    without = [label for label, count in tuned.report["pictures"].items() if not count]
    said.append(f"{len(chosen)} of {len(usable)} training pictures teach, {most} or more a class, seed {seed}")
    return tuned, said + ([f"classes without any: {', '.join(without)}"] if without else [])


def with_rns(settings: Settings, file: Any) -> tuple[Any, ...]:
    """The steps of the settings behind Retrieve and Segment's classifier, which replaces their steps on patches."""
    from ..steps import make_step

    kept = [step for step in settings.steps if make_step(step).on != "patches"]
    return (f"rns({str(file)!r})", *kept)
