"""Masks made from the files that people download: Cityscapes' label ids and COCO-Stuff's pixel maps.

PASCAL Context, whose annotations are no pictures, is in ``pascal_context.py``. Every conversion writes a mask whole or
not at all and skips the masks that are there: one that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SclipError
from ..storage.files import save_image, sweep
from .datasets import OUT_OF_RANGE, UNREADABLE_MASK, DatasetError, MaskError, Problem, read_labels
from .threads import map_ahead
from .wording import listing, some

UNKNOWN = -1  # in a look-up table: a value that the source should not have
Progress = Callable[[int, int], None]

# Cityscapes' label ids in order of their train ids, 0 to 18 (labels.py of cityscapesScripts); 0-33 otherwise ignored.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# COCO's category ids 1-91 are things, of which these were never annotated; 92-182 are COCO-Stuff's stuff. The pixel
# maps hold the id minus 1, and 255 for a pixel without a label (github.com/nightrome/cocostuff, labels.md).
_COCO_THINGS = 91
_COCO_CATEGORIES = 182
_COCO_NEVER_ANNOTATED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Fields:
        written: masks written now.
        there: masks that were there already, and were left as they are.
        problems: sources that no mask could be made from.
    """

    written: int
    there: int
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        lines = [f"{self.written} masks written, {self.there} were there already"]
        lines += [f"  {count} x {kind}" for kind, count in Counter(p.kind for p in self.problems).items()]
        return "\n".join(lines + [f"    {problem}" for problem in self.problems])


class SourceError(SclipError, ValueError):
    """A file that no mask can be made from; ``kind`` as in `Problem`."""

    def __init__(self, message: str, kind: str = UNREADABLE_MASK) -> None:
        super().__init__(message)
        self.kind = kind


def convert_cityscapes(
    root: str | Path,
    *,
    splits: Sequence[str] = ("val",),
    overwrite: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> ConversionReport:
    """Make Cityscapes' ``*_gtFine_labelTrainIds.png`` beside its ``*_gtFine_labelIds.png``.

    The 19 classes of the benchmark become 0 to 18, all other label ids 255, as cityscapesScripts does.

    Args:
        root: the folder that has ``gtFine``.
        splits: of train, val and test.
        overwrite: make masks again that are there already.
        workers: threads.
        progress: called with (masks done, masks in all).

    Returns: what was written, and which files could not be converted.

    Raises:
        DatasetError: there are no label ids.

    >>> print(convert_cityscapes("cityscapes"))  # doctest: +SKIP
    500 masks written, 0 were there already
    """
    root = Path(root)
    table = np.full(256, UNKNOWN, np.int16)
    table[:34] = 255
    table[list(_CITYSCAPES_IDS)] = np.arange(19)
    pattern = "gtFine/{split}/*/*_gtFine_labelIds.png"
    sources = [path for split in splits for path in _visible(root, pattern.format(split=split))]
    if not sources:
        raise nothing_to_convert("Cityscapes", root, [pattern.format(split=split) for split in splits])
    jobs = [(path, path.with_name(path.name.replace("_labelIds.png", "_labelTrainIds.png"))) for path in sources]
    return convert_masks(jobs, _by_table(table), overwrite=overwrite, workers=workers, progress=progress)


def convert_coco_stuff(
    root: str | Path,
    *,
    splits: Sequence[str] = ("val",),
    overwrite: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> ConversionReport:
    """Make COCO-Stuff's ``annotations/val2017/*_labelTrainIds.png`` from its pixel maps.

    The 80 things and 91 stuff classes become 0 to 170 in order of their category ids; pixels without a label stay 255.

    Args:
        root: the folder that has the pixel maps (of ``stuffthingmaps_trainval2017.zip``) in ``annotations/val2017``,
            where MMSegmentation wants them, or in ``stuffthingmaps/val2017``.
        splits: of train and val.
        overwrite, workers, progress: as for `convert_cityscapes`.

    Raises:
        DatasetError: there are no pixel maps.
    """
    ids = [number for number in range(1, _COCO_CATEGORIES + 1) if number not in _COCO_NEVER_ANNOTATED]
    table = np.full(256, UNKNOWN, np.int16)
    table[np.array(ids) - 1] = np.arange(len(ids))
    table[255] = 255
    return _convert_coco(root, table, "_labelTrainIds", splits, overwrite, workers, progress)


def convert_coco_object(
    root: str | Path,
    *,
    splits: Sequence[str] = ("val",),
    overwrite: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> ConversionReport:
    """Make COCO-Object's ``annotations/val2017/*_instanceTrainIds.png`` from COCO-Stuff's pixel maps.

    The 80 things become 1 to 80 in order of their category ids, all else 0: stuff, and also pixels without a label,
    which the papers since GroupViT count as background.

    Args:
        root, splits, overwrite, workers, progress: as for `convert_coco_stuff`.

    Raises:
        DatasetError: there are no pixel maps.
    """
    things = [number for number in range(1, _COCO_THINGS + 1) if number not in _COCO_NEVER_ANNOTATED]
    table = np.full(256, UNKNOWN, np.int16)
    table[_COCO_THINGS:_COCO_CATEGORIES] = 0
    table[np.array(things) - 1] = np.arange(1, len(things) + 1)
    table[255] = 0
    return _convert_coco(root, table, "_instanceTrainIds", splits, overwrite, workers, progress)


def _convert_coco(root, table, suffix, splits, overwrite, workers, progress) -> ConversionReport:
    root = Path(root)
    jobs: list[tuple[Path, Path]] = []
    looked_for = []
    for split in splits:
        for folder in ("stuffthingmaps", "annotations"):
            pattern = f"{folder}/{split}2017/*.png"
            looked_for.append(pattern)
            sources = [path for path in _visible(root, pattern) if not path.stem.endswith("TrainIds")]
            target = root / "annotations" / f"{split}2017"
            jobs += [(path, target / f"{path.stem}{suffix}.png") for path in sources]
            if sources:
                break
    if not jobs:
        raise nothing_to_convert("COCO-Stuff's pixel maps", root, looked_for)
    return convert_masks(jobs, _by_table(table), overwrite=overwrite, workers=workers, progress=progress)


def convert_masks(
    jobs: Sequence[tuple[Path, Path]],
    make: Callable[[Path], np.ndarray],
    *,
    overwrite: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> ConversionReport:
    """Make a mask from each source; the way all conversions here go.

    Args:
        jobs: (source, target) paths.
        make: gives the (H, W) uint8 mask of a source, or raises SourceError.
        overwrite: make masks again that are there already.
        workers: threads.
        progress: called with (masks done, masks in all).
    """
    waiting = [(source, target) for source, target in jobs if overwrite or not target.exists()]

    def convert(job: tuple[Path, Path]) -> Problem | None:
        source, target = job
        try:
            save_image(Image.fromarray(make(source)), target)
        except SourceError as error:
            return Problem(error.kind, source.name, str(error))
        return None

    for folder in {target.parent for _, target in waiting}:
        sweep(folder)
    there = len(jobs) - len(waiting)
    problems = []
    for done, problem in enumerate(map_ahead(convert, waiting, workers), start=there + 1):
        if problem:
            problems.append(problem)
        if progress:
            progress(done, len(jobs))
    return ConversionReport(len(waiting) - len(problems), there, tuple(problems))


def nothing_to_convert(what: str, root: Path, looked_for: Iterable[str]) -> DatasetError:
    """The error for a folder without sources: what was looked for, what is there."""
    if not root.is_dir():
        return DatasetError(f"{what}: '{root}' is not a folder.")
    return DatasetError(f"{what}: looked in '{root}' for {some(looked_for)}; found {listing(root)}.")


def _visible(root: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(root.glob(pattern)) if not path.name.startswith(".")]


def _by_table(table: np.ndarray) -> Callable[[Path], np.ndarray]:
    def make(source: Path) -> np.ndarray:
        try:
            labels = read_labels(source)
        except MaskError as error:
            raise SourceError(str(error), error.kind) from error
        if labels.dtype != np.uint8:
            raise SourceError(f"'{source}' has values of {labels.dtype}; expected 8 bits.")
        mask = table[labels]
        if (mask == UNKNOWN).any():
            wrong = np.unique(labels[mask == UNKNOWN]).tolist()
            raise SourceError(f"'{source}' holds {some(map(str, wrong))}, which is no label here.", OUT_OF_RANGE)
        return mask.astype(np.uint8)

    return make
