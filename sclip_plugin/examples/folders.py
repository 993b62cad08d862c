"""Annotations as PNG: a mask beside each picture, of ids or with a palette; and results of this program."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, LabelError
from ..evaluation.datasets import read_labels
from ..imaging.finding import PICTURE_SUFFIXES
from ..imaging.opening import named_bytes, opened
from ..storage.reading import brief, lines_of, read_text
from .base import Annotated, Examples, Pictures, Region
from .documents import load_names

NAMES = ("classes", "labels", "names", "categories")
VOID = 255
_OF_MASK = re.compile(r"(\.labels|[._-](mask|masks|label|labels|gt|seg))$", re.IGNORECASE)
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(\S.*)")
_ONE_CLASS = re.compile(r"\d+-(.+)")


def read_masks(pictures: Pictures, labels: list[str] | None) -> Examples:
    """Pictures with PNG masks of their stem, in the same folder or another.

    Args:
        pictures: where all of it is.
        labels: names of ids 0, 1, …, where no file names them.

    Raises:
        LabelError: nothing says what ids mean.
        FileFormatError: no pictures with masks.
    """
    shown, masks = _sorted_out(pictures)
    partners = {stem: files for stem, files in masks.items() if len(shown.get(stem, ())) == 1}
    if not partners:
        raise FileFormatError(
            f"no annotations were found in {', '.join(map(str, pictures.places))}: looked for COCO JSON, labelme, "
            "Label Studio, CVAT, YOLO's data.yaml, and PNG masks with the stems of pictures."
        )
    out = Examples("PNG masks")
    names: dict[int, str] | None = None
    if not all(_ONE_CLASS.fullmatch(mask.stem) for files in partners.values() for mask in files):
        names = _names(pictures, labels)
        out.add(*names.values())
    for stem, files in sorted(partners.items()):
        if names is None:
            regions = tuple(region for file in files for region in [_of_one_class(file)])
            out.add(*(str(region.category) for region in regions))
            size = read_labels(files[0]).shape
        elif len(files) > 1:
            out.problems.append(f"{stem} has several masks: {', '.join(str(file) for file in files)}")
            continue
        else:
            ids = read_labels(files[0])
            regions, size = _of_ids(ids, names), ids.shape
            unknown = sorted(set(np.unique(ids).tolist()) - {*names, 0, VOID})
            if unknown:
                raise LabelError(f"{files[0]} holds the ids {unknown}, which have no name; known: {names}.")
        out.items.append(Annotated(shown[stem][0], shown[stem][0].name, regions, (size[0], size[1])))
    out.problems += [f"{stem}: no mask" for stem in sorted(shown) if stem not in masks]
    return out


def example_of(picture: bytes, mask: bytes, labels: Sequence[str], name: str) -> Annotated:
    """A picture's file and a PNG of the labels' places; 255 is not learnt from.

    Raises:
        MaskError, LabelError: the mask can't be read, or holds other numbers.
    """
    ids = read_labels(named_bytes(mask, f"the mask of {name}"))
    names = dict(enumerate(labels))
    unknown = sorted(set(np.unique(ids).tolist()) - {*names, VOID})
    if unknown:
        raise LabelError(
            f"the mask of {name} holds {brief(unknown)}; expected places of the labels, 0 to {len(labels) - 1}, or "
            f"{VOID} for what is not learnt from."
        )
    return Annotated(picture, name, _of_ids(ids, names), (ids.shape[0], ids.shape[1]))


def read_results(out: Examples, path: Path, pictures: Pictures) -> None:
    """A result of ``sclip segment``: its label map; unlabelled pixels stay without a label."""
    from ..segment.segmentation import Segmentation

    result = Segmentation.load(path.parent, path.name.removesuffix(".json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    source = content.get("source") or {}
    name = source.get("path", path.stem) if isinstance(source, dict) else path.stem
    found = Path(name) if Path(name).is_file() else pictures.find(Path(name).name, path.parent)
    out.add(*result.labels)
    if found is None:
        out.problems.append(f"{name}, of which {path.name} is, is not there")
        return
    out.items.append(
        Annotated(found, found.name, _of_ids(result.label_map, dict(enumerate(result.labels))), result.size)
    )


def _of_ids(ids: np.ndarray, names: dict[int, str]) -> tuple[Region, ...]:
    regions = [Region(names[i], _equal(ids, i)) for i in np.unique(ids).tolist() if i in names]
    if VOID not in names and bool((ids == VOID).any()):
        regions.append(Region(None, _equal(ids, VOID)))
    return tuple(regions)


def _equal(ids: np.ndarray, value: int) -> Callable[[tuple[int, int]], np.ndarray]:
    return lambda size: ids == value


def _of_one_class(path: Path) -> Region:
    match = _ONE_CLASS.fullmatch(path.stem)
    assert match is not None
    return Region(match[1], lambda size: read_labels(path) > 0)


def _sorted_out(pictures: Pictures) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Pictures and masks by the picture's stem. A PNG of one channel is a mask if another file is not."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    stems = {file.stem for file in pictures.files if file.suffix.lower() in PICTURE_SUFFIXES}
    for file in pictures.files:
        if file.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        of_one_class = file.suffix == ".png" and _ONE_CLASS.fullmatch(file.stem) and file.parent.name in stems
        by_stem[file.parent.name if of_one_class else _OF_MASK.sub("", file.stem)].append(file)
    shown, masks = {}, {}
    for stem, files in by_stem.items():
        of_ids = [file for file in files if len(files) > 1 and file.suffix.lower() == ".png" and _one_channel(file)]
        if len(of_ids) == len(files):  # a grey picture with its mask: the mask says so by its name
            of_ids = [file for file in files if _OF_MASK.search(file.stem)]
        if of_ids:
            masks[stem] = of_ids
        shown[stem] = [file for file in files if file not in of_ids]
    return shown, masks


def _one_channel(path: Path) -> bool:
    with opened(path) as picture:
        return len(picture.getbands()) == 1


def _names(pictures: Pictures, labels: list[str] | None) -> dict[int, str]:
    """What ids mean: ``classes.txt`` or its like (a name a line from id 0 on, or "3: cat"), or the labels."""
    for file in pictures.files:
        if file.stem.lower() not in NAMES or file.suffix.lower() not in (".txt", ".json", ".yaml", ".yml", ".names"):
            continue
        if file.suffix.lower() in (".json", ".yaml", ".yml"):
            tree = load_names(file)
            entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
            # {"cat": 3} as well as {3: "cat"}
            return {int(v): str(k) if isinstance(v, int) else str(v) for k, v in entries if isinstance(v, int)} or {
                int(k): str(v) for k, v in entries
            }
        lines = [line.strip() for line in lines_of(read_text(file)) if line.strip() and not line.startswith("#")]
        numbered = [_NUMBERED.fullmatch(line) for line in lines]
        if all(numbered):
            return {int(match[1]): match[2] for match in numbered if match is not None}
        return dict(enumerate(lines))
    if labels is None:
        raise LabelError(
            "masks hold ids, and nothing says what they mean; expected classes.txt beside them (a name a line, from id "
            "0 on, or lines such as '3: cat'), or --labels in the order of the ids."
        )
    return dict(enumerate(labels))
