"""COCO JSON: one file over all pictures, with masks as run lengths or as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..importing import needs
from ..storage.files import save_json
from .base import Format, Item
from .instances import Instance, parts_of, without_holes
from .registry import register_format


@register_format("coco")
class Coco(Format):
    """Run lengths: exactly the pixels. The score of an annotation is the presence of its label, where known."""

    help = "COCO JSON over all pictures, masks as run lengths (exact)"
    common = "annotations.json"
    suffix = ".json"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        needs("pycocotools.mask", "export")
        self.pictures: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def write(self, item: Item) -> list[Path]:
        height, width = item.result.size
        picture = len(self.pictures) + 1
        self.pictures.append({"id": picture, "file_name": item.file, "width": width, "height": height})
        for instance, segmentation in self.segmentations(item):
            left, top, right, bottom = instance.box
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": picture,
                    "category_id": instance.index + 1,
                    "segmentation": segmentation,
                    "area": instance.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    **({} if instance.presence is None else {"score": instance.presence}),
                }
            )
        return []

    def segmentations(self, item: Item) -> Iterator[tuple[Instance, Any]]:
        for instance in self.instances(item):
            yield instance, run_lengths(instance)

    def finish(self) -> list[Path]:
        path = self.folder / str(self.file)
        categories = [{"id": index + 1, "name": label} for index, label in enumerate(self.labels)]
        whole = {"images": self.pictures, "annotations": self.annotations, "categories": categories}
        save_json(whole, path, indent=None)
        return [path]


@register_format("coco-polygons")
class CocoPolygons(Coco):
    """Polygons, as older tools want them. COCO's know no holes, so what has some is cut into pieces without."""

    help = "COCO JSON over all pictures, masks as polygons"

    def segmentations(self, item: Item) -> Iterator[tuple[Instance, Any]]:
        things = self.instances(item)
        for instance, shape in zip(things, things.polygons(self.tolerance), strict=True):
            pieces = [piece for part in parts_of(shape) for piece in without_holes(part)]
            yield instance, [np.asarray(piece.exterior.coords)[:-1].round(2).ravel().tolist() for piece in pieces]


def run_lengths(instance: Instance) -> dict[str, Any]:
    """COCO's compressed run lengths of an instance, from its own box, however large the picture.

    Example:
        >>> import numpy as np
        >>> from sclip_plugin.export.instances import Instance
        >>> run_lengths(Instance("cat", 0, (1, 0, 3, 2), np.ones((2, 2), bool), (2, 4)))
        {'size': [2, 4], 'counts': '242'}
    """
    mask = needs("pycocotools.mask", "export")
    height, width = instance.size
    left, top, _, _ = instance.box
    columns, rows = np.nonzero(instance.mask.T)  # COCO counts down the columns
    at = (columns.astype(np.int64) + left) * height + rows + top
    first = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    last = np.append(first[1:], len(at)) - 1
    borders = np.stack([at[first], at[last] + 1], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], borders, [height * width]]))
    packed = mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}
