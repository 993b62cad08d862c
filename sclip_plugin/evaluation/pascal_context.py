"""PASCAL Context's 59 classes from its annotations: the merged JSON of the Detail API, or the 459-label .mat files.

The JSON (``trainval_merged.json``) is what MMSegmentation's converter reads, so published figures rest on it. The .mat
files come from the data set's own page; masks made from them differ from the JSON's in places (MMSegmentation's pull
request 474 found so), and so will figures.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.files import write_atomically
from .conversions import ConversionReport, Progress, SourceError, convert_masks, nothing_to_convert
from .datasets import DatasetError
from .wording import listing

# Ids of the 59 classes in the list of 459, in order of their names as in the benchmark: aeroplane, bag, ..., wood.
# fmt: off
CONTEXT_59_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on
_LABELS = 459


def convert_pascal_context(
    root: str | Path,
    annotations: str | Path | None = None,
    *,
    overwrite: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> ConversionReport:
    """Make PASCAL Context's ``SegmentationClassContext/*.png`` and ``ImageSets/SegmentationContext/*.txt``.

    Labels become 0 for background (whatever is none of the 59) and 1 to 59 in order of the classes' names.

    Args:
        root: VOC2010's folder, the one with ``JPEGImages``.
        annotations: ``trainval_merged.json``, or the folder of .mat files; looked for in ``root`` when not given (the
            JSON first, then ``trainval/*.mat``).
        overwrite, workers, progress: as for `convert_cityscapes`.

    Returns: what was written, and which files could not be converted.

    Raises:
        DatasetError: no annotations, or, for .mat files, no list that says which pictures are for validation.
        SourceError: a JSON of another kind, or a ``labels.txt`` beside the .mat files that numbers labels differently.
        ImportError: .mat files without SciPy installed.

    >>> print(convert_pascal_context("VOCdevkit/VOC2010"))  # doctest: +SKIP
    10100 masks written, 0 were there already
    """
    root = Path(root)
    source = Path(annotations) if annotations is not None else _look_for(root)
    options: dict[str, Any] = {"overwrite": overwrite, "workers": workers, "progress": progress}
    if source.is_dir():
        return _from_mat_files(root, source, options)
    if source.is_file():
        return _from_json(root, source, options)
    raise DatasetError(f"PASCAL Context: '{source}' is neither a file nor a folder.")


def _look_for(root: Path) -> Path:
    places = ["trainval_merged.json", "trainval", "context/trainval"]
    for place in places:
        if (root / place).is_file() or next((root / place).glob("*.mat"), None):
            return root / place
    raise nothing_to_convert("PASCAL Context", root, [places[0], *(f"{place}/*.mat" for place in places[1:])])


def _table() -> np.ndarray:
    table = np.zeros(_LABELS + 1, np.uint8)
    table[list(CONTEXT_59_IDS)] = np.arange(1, 60)
    return table


def _from_json(root: Path, source: Path, options: dict[str, Any]) -> ConversionReport:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"'{source}' is not JSON, or is cut off: {error}") from error
    if not isinstance(content, dict) or not {"images", "annos_segmentation"} <= set(content):
        raise SourceError(
            f"'{source}' has no 'images' and 'annos_segmentation'; expected trainval_merged.json of the Detail API."
        )
    pictures = {}
    splits: dict[str, list[str]] = {"train": [], "val": []}
    try:
        for image in content["images"]:
            if image.get("phase") in splits:
                name = Path(image["file_name"]).stem
                pictures[image["image_id"]] = (name, int(image["height"]), int(image["width"]))
                splits[image["phase"]].append(name)
        regions: dict[str, list[dict]] = {name: [] for name, _, _ in pictures.values()}
        for region in content["annos_segmentation"]:
            if region["image_id"] in pictures:
                regions[pictures[region["image_id"]][0]].append(region)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(f"'{source}' is not as the Detail API writes it: {type(error).__name__} {error}") from error
    sizes = {name: (height, width) for name, height, width in pictures.values()}

    _write_splits(root, splits)
    jobs = [(Path(name), root / "SegmentationClassContext" / f"{name}.png") for name in sizes]
    table = _table()

    def make(job: Path) -> np.ndarray:
        mask = np.zeros(sizes[job.name], np.uint8)
        try:
            for region in regions[job.name]:  # where regions overlap the later one counts, as in the Detail API
                inside = decode_rle(region["segmentation"], sizes[job.name])
                number = region["category_id"]
                mask[inside] = table[number] if 0 <= number <= _LABELS else 0
        except (KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{job.name}: a region that is none: {type(error).__name__} {error}") from error
        return mask

    return convert_masks(jobs, make, **options)


def decode_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A region's run-length code, COCO's with or without compression, as a boolean (H, W) array.

    The code holds lengths of runs, column by column, in turn outside and inside. Compressed, each length is a little
    endian base-32 number with sign, six bits to a character from '0' on, and from the fourth on the difference to the
    length two before (cocoapi, maskApi.c).

    Raises:
        SourceError: the lengths do not add up to the picture.
    """
    height, width = size
    counts = segmentation["counts"]
    lengths = list(counts) if isinstance(counts, list) else _uncompress(counts)
    if sum(lengths) != height * width or min(lengths, default=0) < 0 or list(segmentation["size"]) != [height, width]:
        raise SourceError(f"a region's run lengths add up to {sum(lengths)}, its picture has {width} x {height} pixels")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(width, height).T


def _uncompress(text: str) -> list[int]:
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last character of this number
            if code & 16:
                value -= 1 << shift
            if len(lengths) > 2:
                value += lengths[-2]
            lengths.append(value)
            value = shift = 0
    return lengths


def _from_mat_files(root: Path, folder: Path, options: dict[str, Any]) -> ConversionReport:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            "PASCAL Context's .mat files need SciPy: pip install scipy. "
            "trainval_merged.json, which published figures rest on, needs nothing."
        ) from error
    files = sorted(folder.glob("*.mat"))
    if not files:
        raise DatasetError(f"PASCAL Context: no .mat file in '{folder}'; found {listing(folder)}.")
    for labels in (folder / "labels.txt", folder.parent / "labels.txt"):
        if labels.is_file():
            _check_label_list(labels)
    _splits_of_voc(root, {path.stem for path in files})
    jobs = [(path, root / "SegmentationClassContext" / f"{path.stem}.png") for path in files]
    return convert_masks(jobs, partial(_mask_of_mat, loadmat, _table()), **options)


def _mask_of_mat(loadmat, table: np.ndarray, path: Path) -> np.ndarray:
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises a dozen kinds for a broken file
        raise SourceError(f"cannot read '{path}': {error}") from error
    labels = content.get("LabelMap")
    if labels is None or labels.ndim != 2 or labels.min() < 0 or labels.max() > _LABELS:
        variables = [name for name in content if not name.startswith("__")]
        raise SourceError(f"'{path}' has no LabelMap of labels 0 to {_LABELS}; it holds {variables}.")
    return table[labels.astype(np.int64)]


def _check_label_list(path: Path) -> None:
    """``labels.txt`` has lines such as ``2: aeroplane``; the ids of the 59 classes must be those we know."""
    from ..protocols.benchmarks import load_benchmark

    given = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
    names = {int(number): name.strip() for number, name in given.items() if number.strip().isdigit()}
    expected = zip(CONTEXT_59_IDS, load_benchmark("context59").class_names, strict=True)
    wrong = [(number, name) for number, name in expected if names.get(number) != name]
    if wrong:
        number, name = wrong[0]
        raise SourceError(
            f"'{path}' calls label {number} '{names.get(number)}', not '{name}', and so {len(wrong)} of 59 classes. "
            "Expected the list of 459 labels that comes with trainval.tar.gz."
        )


def _splits_of_voc(root: Path, annotated: set[str]) -> None:
    """PASCAL Context splits its pictures as VOC2010's detection does; .mat files do not say which is which."""
    ours = root / "ImageSets" / "SegmentationContext"
    if (ours / "val.txt").is_file():
        return
    theirs = root / "ImageSets" / "Main"
    if not (theirs / "val.txt").is_file():
        raise DatasetError(
            f"PASCAL Context: .mat files do not say which pictures are for validation. Looked for '{ours / 'val.txt'}' "
            f"and for VOC2010's own '{theirs / 'val.txt'}'; put one of them there."
        )
    splits: dict[str, list[str]] = {}
    for split in ("train", "val"):
        if (theirs / f"{split}.txt").is_file():
            lines = (theirs / f"{split}.txt").read_text(encoding="utf-8").split("\n")
            splits[split] = [line.split()[0] for line in lines if line.strip() and line.split()[0] in annotated]
    _write_splits(root, splits)


def _write_splits(root: Path, splits: dict[str, list[str]]) -> None:
    for split, names in splits.items():
        path = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        if not path.exists():
            write_atomically(path, "".join(f"{name}\n" for name in names).encode())
