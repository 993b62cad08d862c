"""Looking a data set over without a model: every file is opened, and what is wrong is counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..protocols.benchmarks import Benchmark
from .datasets import (
    TURNED,
    UNREADABLE_PICTURE,
    MaskError,
    Problem,
    Sample,
    find_samples,
    picture_size,
    read_mask,
    turned_without_its_mask,
)
from .threads import map_ahead
from .wording import some, unique_names

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class DatasetReport:
    """What `check_dataset` found.

    Fields:
        benchmark: its name.
        root: the folder.
        pictures: pictures that were opened together with their mask.
        problems: what is wrong; empty for a data set that is as it should be.
        pixels: labelled pixels per class, over the masks that could be read.
        ignored_pixels: pixels left out.
    """

    benchmark: str
    root: str
    pictures: int
    problems: tuple[Problem, ...]
    pixels: dict[str, int] = field(default_factory=dict)
    ignored_pixels: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        """How many problems there are of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "benchmark": self.benchmark,
            "root": self.root,
            "pictures": self.pictures,
            "ok": self.ok,
            "problems": [{"kind": p.kind, "name": p.name, "detail": p.detail} for p in self.problems],
            "pixels": self.pixels,
            "ignored_pixels": self.ignored_pixels,
        }

    def __str__(self) -> str:
        absent = [name for name, pixels in self.pixels.items() if not pixels]
        lines = [f"{self.benchmark}: {self.pictures} pictures in '{self.root}'"]
        lines += [f"  {count} x {kind}" for kind, count in self.counts.items()]
        lines += [f"    {problem}" for problem in self.problems]
        if absent:
            lines.append(f"  {len(absent)} of {len(self.pixels)} classes in no mask: {some(absent)}")
        lines.append("  nothing wrong" if self.ok else f"  {len(self.problems)} problems")
        return "\n".join(lines)


def check_dataset(
    benchmark: Benchmark,
    root: str | Path,
    *,
    workers: int = 4,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Open every picture and mask of a data set and report what is wrong, without a model.

    Args:
        benchmark: what is expected, from `load_benchmark`.
        root: the data set's folder.
        workers: threads that decode.
        limit: look at this many pictures only.
        progress: called with (pictures done, pictures in all).

    Returns: the report; its text form lists each problem with the picture's name.

    Raises:
        DatasetError: the folder does not hold the data set at all.

    >>> check_dataset(load_benchmark("voc21"), "VOCdevkit/VOC2012").ok  # doctest: +SKIP
    True
    """
    samples, problems = find_samples(benchmark, root)
    samples = samples[:limit]
    pixels = np.zeros(benchmark.num_classes, np.int64)
    ignored = 0
    for done, (found, counts, left_out) in enumerate(
        map_ahead(lambda sample: _look_at(sample, benchmark), samples, workers), start=1
    ):
        problems += found
        pixels += counts
        ignored += left_out
        if progress:
            progress(done, len(samples))
    return DatasetReport(
        benchmark=benchmark.name,
        root=str(root),
        pictures=len(samples),
        problems=tuple(problems),
        pixels=dict(zip(unique_names(benchmark.class_names), pixels.tolist(), strict=True)),
        ignored_pixels=ignored,
    )


def _look_at(sample: Sample, benchmark: Benchmark) -> tuple[list[Problem], np.ndarray, int]:
    problems = []
    size = None
    none = np.zeros(benchmark.num_classes, np.int64)
    try:
        size = picture_size(sample.image_path)
    except OSError as error:
        problems.append(Problem(UNREADABLE_PICTURE, sample.name, str(error)))
    try:
        labels = read_mask(sample.mask_path, benchmark, size)
    except MaskError as error:
        problems.append(Problem(error.kind, sample.name, str(error)))
        return problems, none, 0
    if turned_without_its_mask(sample):
        problems.append(Problem(TURNED, sample.name, "see that the mask fits the upright picture; then save that"))
    kept = labels != benchmark.ignore_index
    counts = np.bincount(labels[kept].ravel(), minlength=benchmark.num_classes)[: benchmark.num_classes]
    return problems, counts.astype(np.int64), int(labels.size - kept.sum())
