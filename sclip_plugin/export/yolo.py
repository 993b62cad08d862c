"""YOLO's segmentation data set: a text file of polygons a picture, the pictures beside them, and data.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..imaging.marks import marked
from ..storage.files import save_image, write_atomically
from .base import Format, Item
from .instances import bridged
from .registry import register_format

WITHIN = 0.25  # of a pixel: readers that round find the same pixel as those that cut off


@register_format("yolo")
class Yolo(Format):
    """``data.yaml``, ``images/NAME.png``, ``labels/NAME.txt``.

    A line is a connected region: its class and its outline through the centres of its outermost pixels, relative to the
    picture's sides. A hole is joined to the outline by a bridge of no width, as Ultralytics' own conversion does.
    """

    needs_picture = True
    tolerance = 0.5
    help = "YOLO segmentation: data.yaml, pictures, a text file of polygons each"

    def write(self, item: Item) -> list[Path]:
        height, width = item.result.size
        lines = []
        for instance in self.instances(item):
            for rings in instance.rings(self.tolerance):
                points = (bridged(rings) + WITHIN) / (width, height)
                points = np.resize(points, (max(3, len(points)), 2))  # fewer than three would be read as a box
                lines.append(" ".join([str(instance.index), *(f"{value:.6f}" for value in points.ravel())]))
        paths = [self.folder / "images" / f"{item.name}.png", self.folder / "labels" / f"{item.name}.txt"]
        assert item.result.picture is not None, "needs_picture says so"
        save_image(item.result.picture, paths[0], **marked("PNG"))
        write_atomically(paths[1], "".join(f"{line}\n" for line in lines).encode())
        return paths

    def finish(self) -> list[Path]:
        path = self.folder / "data.yaml"
        # Without a "path" the folders are beside this file, wherever that is moved. "val" has to be there.
        content: dict[str, Any] = {"train": "images", "val": "images", "names": dict(enumerate(self.labels))}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        write_atomically(path, text.encode())
        return [path]
