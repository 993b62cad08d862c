"""Annotations in documents: COCO JSON, labelme, Label Studio, CVAT, YOLO."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ..importing import needs
from ..masks.folder import decoded
from ..storage.reading import load_yaml, read_text
from .base import Annotated, Examples, Pictures, Region, pairs, placed, polygon

Reader = Callable[[Examples, Path, Any, Pictures], None]


def read_coco(out: Examples, path: Path, content: Any, pictures: Pictures) -> None:
    """Polygons and run lengths; crowds are not to be learnt from. Ids may have gaps."""
    names = {entry["id"]: str(entry["name"]).strip() for entry in content["categories"]}
    out.add(*names.values())
    regions: dict[Any, list[Region]] = {entry["id"]: [] for entry in content["images"]}
    boxes = 0
    for entry in content["annotations"]:
        category = None if entry.get("iscrowd") else names[entry["category_id"]]
        if entry.get("segmentation"):
            regions[entry["image_id"]].append(Region(category, _coco_mask(entry["segmentation"])))
        else:
            boxes += 1
    for entry in content["images"]:
        size = (int(entry["height"]), int(entry["width"]))
        _add(out, pictures, path, entry["file_name"], regions[entry["id"]], size)
    _say_boxes(out, path, boxes)


def _coco_mask(segmentation: Any) -> Callable[[tuple[int, int]], np.ndarray]:
    if isinstance(segmentation, dict):
        return lambda size: decoded(segmentation)
    tool = needs("pycocotools.mask", "export")
    rings = [ring for ring in segmentation if len(ring) >= 6]
    return lambda size: tool.decode(tool.merge(tool.frPyObjects(rings, *size))).astype(bool)


def read_labelme(out: Examples, path: Path, content: Any, pictures: Pictures) -> None:
    """Polygons and masks of one picture, which may be in the file."""
    regions, boxes = [], 0
    for shape in content["shapes"]:
        kind, category = shape.get("shape_type", "polygon"), str(shape["label"]).strip()
        if kind == "polygon":
            regions.append(Region(category, polygon(shape["points"])))
        elif kind == "mask":
            left, top = (round(float(value)) for value in shape["points"][0])
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
            regions.append(Region(category, placed(mask, left, top)))
        else:
            boxes += 1
            continue
        out.add(category)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else None
    if content.get("imageData"):
        out.items.append(Annotated(base64.b64decode(content["imageData"]), path.name, tuple(regions), size))
    else:
        _add(out, pictures, path, content["imagePath"], regions, size)
    _say_boxes(out, path, boxes)


def read_label_studio(out: Examples, path: Path, content: Any, pictures: Pictures) -> None:
    """Brush masks and polygons of annotations, or of predictions where nobody has annotated."""
    boxes = 0
    for task in content:
        done = [each for each in task.get("annotations", ()) if not each.get("was_cancelled")]
        regions, size = [], None
        for entry in (done or task.get("predictions") or [{}])[0].get("result", ()):
            value, kind = entry.get("value", {}), entry.get("type")
            if kind not in ("brushlabels", "polygonlabels"):
                boxes += kind == "rectanglelabels"
                continue
            size = (int(entry["original_height"]), int(entry["original_width"]))
            category = str(value[kind][0]).strip()
            out.add(category)
            if kind == "brushlabels":
                regions.append(Region(category, _brushed(value["rle"])))
            else:
                points = np.array(value["points"], float) * (size[1] / 100, size[0] / 100)
                regions.append(Region(category, polygon(points)))
        address = next(str(value) for value in task["data"].values() if isinstance(value, str))
        name = unquote(address.rpartition("?d=")[2] if "?d=" in address else address.rpartition("/")[2])
        if pictures.find(name, path.parent) is None:  # an upload has a hash in front
            name = re.sub(r"^[0-9a-f]{8}-", "", name.rpartition("/")[2])
        _add(out, pictures, path, name, regions, size)
    _say_boxes(out, path, boxes)


def _brushed(run_lengths: list[int]) -> Callable[[tuple[int, int]], np.ndarray]:
    return lambda size: unbrushed(run_lengths, size)


def unbrushed(run_lengths: list[int], size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) from Label Studio's bytes, as `sclip_plugin.export.annotation.brush` writes them."""
    bits = "".join(f"{byte:08b}" for byte in run_lengths)
    at = 0

    def taken(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, width = taken(32), taken(5) + 1
    lengths = [taken(4) + 1 for _ in range(4)]
    if count != 4 * size[0] * size[1]:
        raise ValueError(f"a brush mask of {count} values; expected {4 * size[0] * size[1]}")
    values = np.empty(count, np.uint8)
    start = 0
    while start < count:
        repeated = taken(1)
        end = start + taken(lengths[taken(2)]) + 1
        if repeated:
            values[start:end] = taken(width)
        else:
            values[start:end] = [taken(width) for _ in range(end - start)]
        start = end
    return values.reshape(*size, 4)[..., 3] > 0


def read_cvat(out: Examples, path: Path, content: ElementTree.Element, pictures: Pictures) -> None:
    """ "CVAT for images 1.1": masks and polygons."""
    out.add(*(str(name.text).strip() for name in content.iterfind("meta//labels/label/name")))
    boxes = 0
    for image in content.iterfind("image"):
        regions = []
        for shape in image:
            category = str(shape.get("label")).strip()
            if shape.tag == "mask":
                height, width, left, top = (int(shape.get(key, 0)) for key in ("height", "width", "left", "top"))
                runs = [int(run) for run in str(shape.get("rle")).split(",")]
                mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
                regions.append(Region(category, placed(mask, left, top)))
            elif shape.tag == "polygon":
                points = [point.split(",") for point in str(shape.get("points")).split(";")]
                regions.append(Region(category, polygon(points)))
            else:
                boxes += shape.tag != "tag"
                continue
            out.add(category)
        size = (int(image.get("height", 0)), int(image.get("width", 0)))
        _add(out, pictures, path, str(image.get("name")), regions, size)
    _say_boxes(out, path, boxes)


def read_yolo(out: Examples, path: Path, content: Any, pictures: Pictures) -> None:
    """``data.yaml`` with ``names``, and for each picture ``labels/NAME.txt``: a class and an outline a line."""
    names = content["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
    names = {key: str(name).strip() for key, name in names.items()}
    out.add(*names.values())
    boxes = 0
    for file in sorted(path.parent.rglob("*.txt")):
        if "labels" not in file.relative_to(path.parent).parts:
            continue
        regions = []
        for line in read_text(file).splitlines():
            values = line.split()
            if not values:
                continue
            if len(values) < 7:
                boxes += 1
                continue
            regions.append(Region(names[int(values[0])], _relative([float(value) for value in values[1:]])))
        beside = Path(*("images" if part == "labels" else part for part in file.parent.parts))
        _add(out, pictures, file, file.stem, regions, None, beside)
    _say_boxes(out, path, boxes)


def _relative(values: list[float]) -> Callable[[tuple[int, int]], np.ndarray]:
    points = list(pairs(values))
    # Whole pixels through the outline, as Ultralytics draws it.
    return lambda size: polygon([(int(x * size[1]), int(y * size[0])) for x, y in points])(size)


def load_names(path: Path) -> Any:
    """What a YAML file holds."""
    return load_yaml(read_text(path), path)


def _add(
    out: Examples,
    pictures: Pictures,
    path: Path,
    name: str,
    regions: list[Region],
    size: tuple[int, int] | None,
    near: Path | None = None,
) -> None:
    """Add a picture, or say that it is not there."""
    found = pictures.find(name, near or path.parent)
    if found is None:
        out.problems.append(f"{name}, which {path.name} names, is not there, or is there more than once")
    else:
        out.items.append(Annotated(found, name, tuple(regions), size))


def _say_boxes(out: Examples, path: Path, boxes: int) -> None:
    if boxes:
        out.problems.append(f"{path.name}: {boxes} annotations without an outline (boxes, points, lines) were left out")
