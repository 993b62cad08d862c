"""Reading a benchmark's folders: which pictures there are, the mask of each, and a mask's labels as classes.

Nothing that is wrong is skipped in silence: each finding is a `Problem` with a kind and the picture's name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import PictureError, SclipError
from ..imaging.opening import name_of, opened, orientation, raw_mode, upright
from ..protocols.benchmarks import Benchmark
from ..storage.reading import TextFileError, lines_of, read_text
from .metric import LabelRangeError, check_labels
from .wording import listing, some

# Kinds of problems, in the words of the report.
MISSING_PICTURE = "picture missing"
MISSING_MASK = "mask missing"
MASK_ALONE = "mask without a picture"
LISTED_TWICE = "listed twice in the split"
UNREADABLE_PICTURE = "picture unreadable"
UNREADABLE_MASK = "mask unreadable"
SIZES_DIFFER = "sizes differ"
OUT_OF_RANGE = "labels out of range"
TURNED = "picture turned by EXIF, mask not"

MISSING = (MISSING_PICTURE, MISSING_MASK)

# Grey pictures of fewer than 8 bits: Pillow spreads their values over 0 to 255, by these factors.
_SPREAD = {"L;2": 85, "L;4": 17}
_LOSSY = ("JPEG", "MPO")


class DatasetError(SclipError, FileNotFoundError):
    """A folder that does not hold the data set: says what was looked for and what was found."""


class MaskError(SclipError, ValueError):
    """A mask that cannot be used; ``kind`` is one of the kinds of problems above."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Sample:
    """One picture of a data set and its mask; ``name`` is what the stars of the globs stand for, joined by ``/``."""

    name: str
    image_path: Path
    mask_path: Path


@dataclass(frozen=True)
class Problem:
    """Something wrong with one picture of a data set."""

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}" + (f" ({self.detail})" if self.detail else "")


def find_samples(benchmark: Benchmark, root: str | Path) -> tuple[list[Sample], list[Problem]]:
    """The pictures of a data set that have a mask, in order of the split or of their names, and what is wrong.

    Args:
        benchmark: says which files to look for.
        root: the data set's folder, as the table of layouts in docs/evaluation.md shows it.

    Returns: the samples, and the problems found without opening a picture: missing partners and lines listed twice.

    Raises:
        DatasetError: no such folder, or no pictures, no masks or no split where the benchmark expects them.

    >>> samples, problems = find_samples(load_benchmark("voc21"), "VOCdevkit/VOC2012")  # doctest: +SKIP
    >>> samples[0].name  # doctest: +SKIP
    '2007_000033'
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{benchmark.name}: '{root}' is not a folder. Pass the folder that has {benchmark.images}.")
    images = _matches(root, benchmark.images)
    masks = _matches(root, benchmark.masks)
    if not images or not masks:
        raise DatasetError(_what_is_there(benchmark, root, len(images), len(masks)))

    problems: list[Problem] = []
    if benchmark.split:
        names = _read_split(benchmark, root, problems)
    else:
        names = sorted(set(images) | set(masks))
    samples = []
    for name in names:
        image, mask = images.get(name), masks.get(name)
        if image and mask:
            samples.append(Sample(name, image, mask))
        elif image:
            problems.append(Problem(MISSING_MASK, name, f"looked for {_fill(benchmark.masks, name)}"))
        elif mask and not benchmark.split:
            problems.append(Problem(MASK_ALONE, name, f"looked for {_fill(benchmark.images, name)}"))
        else:
            problems.append(Problem(MISSING_PICTURE, name, f"looked for {_fill(benchmark.images, name)}"))
    if not samples:
        raise DatasetError(
            f"{benchmark.name}: none of the {len(images)} pictures ({benchmark.images}) in '{root}' has a partner "
            f"among the {len(masks)} masks ({benchmark.masks})"
            + (f" that {benchmark.split} lists" if benchmark.split else "")
            + f". First pictures: {some(images)}. First masks: {some(masks)}."
        )
    return samples, problems


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a picture as it is seen upright, after decoding all of it.

    Raises:
        OSError: the file cannot be read, or is cut off.
    """
    try:
        with opened(path) as image:
            image.load()
            return upright(image).size
    except PictureError as error:
        raise OSError(str(error)) from error


def turned_without_its_mask(sample: Sample) -> bool:
    """Whether a picture's EXIF data turn it and its mask's do not, with sizes that agree all the same: by half a turn,
    or in a mirror. Then nothing shows whether the mask was drawn on the upright picture."""
    try:
        with opened(sample.image_path) as image, opened(sample.mask_path) as mask:
            return orientation(image) in (2, 3, 4) and orientation(mask) == 1
    except PictureError:
        return False  # said elsewhere


def read_labels(path: str | Path | IO[bytes]) -> np.ndarray:
    """The numbers in a picture that holds labels, as they were written: (H, W) integers.

    Grey values of 1, 2 or 4 bits stay what they are, and EXIF orientation is honoured as for pictures.

    Raises:
        MaskError: unreadable or cut off, more than one channel, no integers, or JPEG, which changes values.
    """
    name = name_of(path)
    try:
        with opened(path) as image:
            image_format, raw = image.format, raw_mode(image)
            image.load()
            channels, mode = len(image.getbands()), image.mode
            labels = np.asarray(upright(image))
    except PictureError as error:
        raise MaskError(f"cannot read mask: {error}", UNREADABLE_MASK) from error
    if image_format in _LOSSY:
        raise MaskError(
            f"mask '{name}' is a JPEG, whose values are not those that were saved; expected PNG.",
            UNREADABLE_MASK,
        )
    if channels != 1 or labels.dtype.kind not in "iub":
        raise MaskError(
            f"mask '{name}' is a picture of mode {mode}; expected one channel of class numbers (mode P, L or I).",
            UNREADABLE_MASK,
        )
    if mode == "L" and raw in _SPREAD:
        return labels // np.uint8(_SPREAD[raw])
    if mode == "L" and raw not in ("L", ""):
        raise MaskError(
            f"mask '{name}' has grey values in the form {raw}, which are not class numbers; save it as PNG with 8 "
            "bits.",
            UNREADABLE_MASK,
        )
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_mask(path: str | Path, benchmark: Benchmark, size: tuple[int, int] | None = None) -> np.ndarray:
    """A mask's labels as classes.

    Args:
        path: a PNG of 1 to 16 bits (or what Pillow reads without loss) with one channel, or a palette.
        benchmark: says how labels are encoded.
        size: (width, height) of the picture, to compare with.

    Returns: (H, W) integers: 0 to num_classes - 1, or the benchmark's ``ignore_index``. With ``reduce_zero_label`` file
        labels 1, 2, ... have become 0, 1, ... and file label 0 is ignored.

    Raises:
        MaskError: what `read_labels` raises it for, another size than the picture, or labels that name no class; its
            ``kind`` says which.
    """
    labels = read_labels(path)
    if size is not None and (labels.shape[1], labels.shape[0]) != tuple(size):
        raise MaskError(
            f"mask '{path}' is {labels.shape[1]} x {labels.shape[0]}, its picture {size[0]} x {size[1]}.", SIZES_DIFFER
        )
    try:
        return _as_classes(labels, benchmark)
    except LabelRangeError as error:
        raise MaskError(f"mask '{path}': {error}", OUT_OF_RANGE) from error


def _as_classes(labels: np.ndarray, benchmark: Benchmark) -> np.ndarray:
    offset = int(benchmark.reduce_zero_label)
    check_labels("mask", labels, offset, benchmark.num_classes + offset, (benchmark.ignore_index, 0)[: 1 + offset])
    if not offset:
        return labels
    ignore = benchmark.ignore_index
    if labels.dtype == np.uint8 and ignore == 255:
        # 0 - 1 wraps to 255, which is what it should become; only what was 255 needs care.
        reduced = labels - np.uint8(1)
        reduced[labels == 255] = 255
        return reduced
    left_out = (labels == 0) | (labels == ignore)
    return np.where(left_out, ignore, labels.astype(np.int32) - 1)


def _matches(root: Path, pattern: str) -> dict[str, Path]:
    """Files that match a glob, by what its stars stand for, joined by ``/``."""
    # A pattern's parts become one regular expression; a star does not cross folders.
    regex = re.compile("([^/]*)".join(re.escape(part) for part in pattern.split("*")))
    found = {}
    for path in root.glob(pattern):
        if path.name.startswith("."):  # macOS leaves "._name.png" beside what it unpacks
            continue
        match = regex.fullmatch(path.relative_to(root).as_posix())
        if match:
            found["/".join(match.groups())] = path
    return found


def _fill(pattern: str, name: str) -> str:
    parts = pattern.split("*")
    stars = name.split("/")
    if len(stars) != len(parts) - 1:
        return pattern
    return parts[0] + "".join(star + part for star, part in zip(stars, parts[1:], strict=True))


def _read_split(benchmark: Benchmark, root: Path, problems: list[Problem]) -> list[str]:
    path = root / str(benchmark.split)
    if not path.is_file():
        raise DatasetError(
            f"{benchmark.name}: the list of pictures '{path}' does not exist. Found in '{root}': {listing(root)}."
        )
    try:
        lines = [line.strip() for line in lines_of(read_text(path))]
    except TextFileError as error:
        raise DatasetError(f"{benchmark.name}: the list of pictures can't be read: {error}") from error
    names: dict[str, None] = {}
    for line in lines:
        if line and line in names:
            problems.append(Problem(LISTED_TWICE, line, f"in {benchmark.split}; counted once"))
        elif line:
            names[line] = None
    if not names:
        raise DatasetError(f"{benchmark.name}: the list of pictures '{path}' is empty.")
    return list(names)


def _what_is_there(benchmark: Benchmark, root: Path, images: int, masks: int) -> str:
    message = (
        f"{benchmark.name}: '{root}' is not laid out as expected. "
        f"Looked for pictures {benchmark.images} (found {images}) and masks {benchmark.masks} (found {masks}). "
        f"Found in '{root}': {listing(root)}."
    )
    if images and not masks and any(next(root.glob(pattern), None) for pattern in benchmark.made_from):
        return f"{message} The masks can be made from what is there: {benchmark.made_by.replace('DATA', str(root))}"
    first = benchmark.images.split("/")[0]
    for folder, below, _ in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        if depth and first in below and next(Path(folder).glob(benchmark.images), None):
            return f"{message} Did you mean '{folder}'?"
        if depth >= 2:
            below.clear()
    return message
