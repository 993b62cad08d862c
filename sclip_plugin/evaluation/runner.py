"""Evaluating: every picture once, its counts kept as they come, the figures from their sum.

The model is a function from pictures to label maps, so all that is here can be tested, and used, without one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .calibration import Answer, Calibration, calibrations
from .cost import PeakMemory
from .datasets import MISSING, UNREADABLE_PICTURE, MaskError, Problem
from .metric import IoUTotals, count_picture
from .picture_log import PictureLog, PictureRecord
from .processes import Processes
from .sets import EvaluationSet
from .threads import map_ahead

Predict = Callable[[list[Image.Image]], Sequence[np.ndarray]]
Report = Callable[[int, int, IoUTotals], None]

_MAPS_WAITING = 4  # label maps that may wait to be counted and saved while the model goes on


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of one run.

    Fields:
        benchmark: its name; ``title``, ``class_names`` as in the benchmark.
        settings: all that the figures depend on.
        totals: the sums, with `IoUTotals.miou` and so on.
        records: one per picture, in order of the set.
        problems: pictures left out, and why; what is wrong with the data set otherwise.
        expected: how many pictures the whole set has, as far as is known.
        seconds: how long this run computed, and for how many pictures (the others were there from an earlier run).
        calibration: how often scores of ``"pixels"``, and of ``"presence"`` where it was asked for, are right.
    """

    benchmark: str
    title: str
    class_names: tuple[str, ...]
    settings: dict[str, Any]
    totals: IoUTotals
    records: tuple[PictureRecord, ...]
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    computed: int = 0
    expected: int = 0
    published: tuple = field(default=())
    calibration: dict[str, Calibration] = field(default_factory=dict)

    @property
    def miou(self) -> float:
        """Mean IoU over the set, from 0 to 1."""
        return self.totals.miou

    @property
    def seconds_a_picture(self) -> float:
        """Median time that the model took for a picture, nan where unknown."""
        known = [record.seconds for record in self.records if record.seconds]
        return float(np.median(known)) if known else float("nan")

    @property
    def peak_memory(self) -> int:
        """Bytes that the run took at most, 0 where unknown; see `sclip_plugin.evaluation.cost.PeakMemory`."""
        return max((record.peak for record in self.records), default=0)

    def worst(self, count: int) -> list[PictureRecord]:
        """The pictures with the lowest IoU of their own, the worst first."""
        known = [record for record in self.records if not np.isnan(record.miou)]
        return sorted(known, key=lambda record: (record.miou, record.name))[:count]


def evaluate(
    data: EvaluationSet,
    predict: Predict,
    *,
    settings: dict[str, Any] | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    limit: int | None = None,
    batch: int = 1,
    workers: int = 2,
    save_maps: bool = False,
    processes: Processes | None = None,
    report: Report | None = None,
) -> EvaluationResult:
    """Run a model over a set of pictures and sum up its mIoU.

    Reading and decoding go on in threads while the model computes, and so do counting and saving.

    Args:
        data: from `folder_set` or `demo_set`.
        predict: gives (H, W) integers for each RGB picture of a list, positions in the benchmark's classes or -1. Its
            method ``answers``, where it has one, gives an `Answer` for each: then calibration is reported, too.
        settings: plain values that the figures depend on (model, method, ...); a run goes on only with equal ones.
        output: folder for partial results (``pictures-*.jsonl``) and maps; None keeps nothing.
        resume: go on from what the folder holds; otherwise start anew.
        limit: the first so many pictures only.
        batch: pictures given to the model at once.
        workers: threads that read and decode.
        save_maps: write each label map to ``output/maps`` as palette PNG, 255 where no class was given.
        processes: this process among several; by default what torchrun says.
        report: called after each picture with (pictures done, pictures of this process, its sums so far).

    Returns: the figures, the same in every process.

    Raises:
        ResumeError: the folder holds partial results of a run with other settings.

    >>> from sclip_plugin.evaluation.sets import demo_set
    >>> all_grass = lambda pictures: [np.zeros((p.height, p.width), int) for p in pictures]
    >>> evaluate(demo_set(scenes=2), all_grass).miou < 0.2
    True
    """
    processes = processes or Processes.start()
    benchmark = data.benchmark
    output = Path(output) if output is not None else None
    settings = {
        "benchmark": benchmark.name,
        "classes": benchmark.num_classes,
        "data": data.source,
        **(settings or {}),
    }
    names = data.names[:limit]
    log = PictureLog(output, settings, benchmark.num_classes, processes.rank) if output else None

    known = _known(log, processes, resume)
    done = _still_right(known, data, names, processes, workers, lambda name: _has_map(output, save_maps, name))
    mine = processes.share([name for name in names if name not in done])

    totals = IoUTotals(benchmark.num_classes, benchmark.ignore_index)
    records: list[PictureRecord] = []
    problems: list[Problem] = []
    start = time.perf_counter()
    try:
        for record in _run(data, mine, predict, log, output if save_maps else None, batch, workers, problems):
            records.append(record)
            totals.merge(record.counts)
            if report:
                report(len(records) + len(problems), len(mine), totals)
    finally:
        if log:
            log.close()
    seconds = time.perf_counter() - start

    for others, others_problems in processes.gather((records, problems)):
        done.update({record.name: record for record in others})
        problems += [problem for problem in others_problems if problem not in problems]
    ordered = tuple(done[name] for name in names if name in done)
    seconds, computed = max(processes.gather(seconds)), sum(processes.gather(len(records)))
    return _summed(data, settings, ordered, problems, seconds, computed)


def _known(log: PictureLog | None, processes: Processes, resume: bool) -> dict[str, PictureRecord]:
    """The records of earlier runs: what any process knows, all know, so they agree on what is left."""
    known: dict[str, PictureRecord] = {}
    if log:
        if processes.first and not resume:
            log.discard()
        processes.gather(None)  # nobody reads before the first has discarded, nor writes before all have read
        for earlier in processes.gather(log.read()):
            known.update(earlier)
        log.open()
    return known


def _still_right(
    known: dict[str, PictureRecord],
    data: EvaluationSet,
    names: Sequence[str],
    processes: Processes,
    workers: int,
    has_map: Callable[[str], bool],
) -> dict[str, PictureRecord]:
    """Of known records those of pictures that are wanted and have not changed since."""
    wanted = set(names)
    kept = sorted(name for name in known if name in wanted and has_map(name))
    if data.source_hash:
        hashes = zip(mine := processes.share(kept), map_ahead(data.source_hash, mine, workers), strict=True)
        same = [name for name, source in hashes if known[name].source == source]
        kept = [name for share in processes.gather(same) for name in share]
    return {name: known[name] for name in kept}


def _summed(
    data: EvaluationSet,
    settings: dict[str, Any],
    records: tuple[PictureRecord, ...],
    problems: list[Problem],
    seconds: float,
    computed: int,
) -> EvaluationResult:
    benchmark = data.benchmark
    totals = IoUTotals(benchmark.num_classes, benchmark.ignore_index)
    calibration: dict[str, Calibration] = {}
    for record in records:
        totals.merge(record.counts)
        for kind, seen in record.calibration.items():
            calibration.setdefault(kind, Calibration()).table += seen.table
    return EvaluationResult(
        benchmark=benchmark.name,
        title=benchmark.title,
        class_names=benchmark.class_names,
        settings=settings,
        totals=totals,
        records=records,
        problems=(*data.problems, *sorted(problems, key=lambda problem: problem.name)),
        seconds=seconds,
        computed=computed,
        expected=max(benchmark.pictures or 0, len(data.names) + sum(p.kind in MISSING for p in data.problems)),
        published=benchmark.published,
        calibration=calibration,
    )


def _run(
    data: EvaluationSet,
    names: Sequence[str],
    predict: Predict,
    log: PictureLog | None,
    maps_of: Path | None,
    batch: int,
    workers: int,
    problems: list[Problem],
) -> Iterator[PictureRecord]:
    """Records of the pictures as they are done; pictures that cannot be used are added to ``problems``."""
    ignore = data.benchmark.ignore_index
    asked: Any = getattr(predict, "answers", None) or (lambda given: [Answer(np.asarray(m)) for m in predict(given)])

    memory = PeakMemory(getattr(predict, "device", None))

    def keep(name: str, answer: Answer, target: np.ndarray, seconds: float, peak: int) -> PictureRecord:
        counts = count_picture(answer.label_map, target, data.benchmark.num_classes, ignore)
        source = data.source_hash(name) if data.source_hash else ""
        record = PictureRecord(name, counts, source, calibrations(answer, target, ignore), seconds, peak)
        if maps_of:
            _save_map(maps_of, name, answer.label_map, data.benchmark.class_names)
        if log:
            log.append(record)  # last: what is in the log is done
        return record

    with ThreadPoolExecutor(1) as keeper:  # one thread, so that the log has one writer
        waiting: deque[Future[PictureRecord]] = deque()
        loaded: list[tuple[str, Image.Image, np.ndarray]] = []

        def give_to_model() -> None:
            start = time.perf_counter()
            answers = asked([picture for _, picture, _ in loaded])
            cost = (time.perf_counter() - start) / len(loaded), memory.read()
            for (name, _, target), answer in zip(loaded, answers, strict=True):
                waiting.append(keeper.submit(keep, name, answer, target, *cost))
            loaded.clear()

        for item in map_ahead(partial(_loaded, data), names, workers):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            loaded.append(item)
            if len(loaded) == batch:
                give_to_model()
            while len(waiting) > _MAPS_WAITING or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        if loaded:
            give_to_model()
        while waiting:
            yield waiting.popleft().result()


def _loaded(data: EvaluationSet, name: str) -> tuple[str, Image.Image, np.ndarray] | Problem:
    try:
        picture, target = data.load(name)
    except MaskError as error:
        return Problem(error.kind, name, str(error))
    except OSError as error:
        return Problem(UNREADABLE_PICTURE, name, str(error))
    return name, picture, target


def map_path(output: Path, name: str) -> Path:
    """Where `evaluate` saves a picture's label map."""
    return output / "maps" / f"{name}.png"


def _save_map(output: Path, name: str, label_map: np.ndarray, class_names: Sequence[str]) -> None:
    from ..draw.overlay import palette_png
    from ..storage.files import save_image

    save_image(palette_png(label_map, class_names), map_path(output, name))


def _has_map(output: Path | None, save_maps: bool, name: str) -> bool:
    """Whether a picture of an earlier run needs nothing more: its map, too, where maps are asked for."""
    return not save_maps or output is None or map_path(output, name).is_file()
