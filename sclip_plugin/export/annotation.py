"""What annotation programs import: Label Studio, CVAT, labelme. Masks are exact where the program has masks."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from ..errors import SettingError
from ..storage.files import save_json, write_atomically
from .base import Format, Item, as_text
from .instances import Instance
from .registry import register_format


@register_format("labelstudio")
class LabelStudio(Format):
    """``tasks.json`` with predictions as brush masks, and ``config.xml``, the labelling interface that they fit.

    The score of a mask is the presence of its label where it is known, else the mean score of its pixels.

    Pictures are named as Label Studio's local storage serves them: ``/data/local-files/?d=`` and the file's path. URLs
    stay as they are.
    """

    help = "Label Studio: tasks with predictions as brush masks, and the interface's configuration"
    common = "tasks.json"
    suffix = ".json"
    regions = "classes"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tasks: list[dict[str, Any]] = []

    def write(self, item: Item) -> list[Path]:
        height, width = item.result.size
        scores = {**item.result.mean_scores(), **(item.result.presence or {})}
        shared: dict[str, Any] = {"original_width": width, "original_height": height, "image_rotation": 0}
        shared |= {"from_name": "label", "to_name": "image", "type": "brushlabels"}
        results = [
            {
                **shared,
                "id": f"{len(self.tasks)}-{number}",
                "value": {"format": "rle", "rle": brush(instance), "brushlabels": [as_text(instance.label)]},
                **({"score": scores[instance.label]} if instance.label in scores else {}),
            }
            for number, instance in enumerate(self.instances(item))
        ]
        source = item.source or item.file
        address = source if "://" in source else f"/data/local-files/?d={_quoted(source)}"
        prediction = {"model_version": str(item.result.settings.get("model", "sclip_plugin")), "result": results}
        self.tasks.append({"data": {"image": address}, "predictions": [prediction]})
        return []

    def finish(self) -> list[Path]:
        paths = [self.folder / str(self.file), self.folder / "config.xml"]
        save_json(self.tasks, paths[0], indent=None)
        labels = "".join(f"    <Label value={quoteattr(as_text(label))}/>\n" for label in self.labels)
        config = (
            '<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n'
            f"{labels}  </BrushLabels>\n</View>\n"
        )
        write_atomically(paths[1], config.encode())
        return paths


def brush(instance: Instance) -> list[int]:
    """The bytes of Label Studio's brush mask: run lengths of RGBA in the bit format of thi.ng's rle-pack.

    Its head: 32 bits for the number of values, 5 for the bits of a value less one, four times 4 for the sizes of run
    lengths less one. A run: a bit 1, two bits for which size, its length less one, the value.
    """
    sizes = (3, 7, 11, 16)
    flat = instance.full_mask().ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(np.append(starts, flat.size))  # the four channels are alike
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length:
            run = min(length, 1 << sizes[-1])
            which = next(i for i, size in enumerate(sizes) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{sizes[which]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


@register_format("cvat")
class Cvat(Format):
    """ "CVAT for images 1.1": one XML file over all pictures, masks as run lengths inside their boxes."""

    help = "CVAT for images 1.1: XML over all pictures, masks as run lengths (exact)"
    common = "annotations.xml"
    suffix = ".xml"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lines: list[str] = []
        self.pictures = 0

    def write(self, item: Item) -> list[Path]:
        height, width = item.result.size
        name = quoteattr(as_text(item.file))
        self.lines.append(f'  <image id="{self.pictures}" name={name} width="{width}" height="{height}">')
        self.pictures += 1
        for instance in self.instances(item):
            left, top, right, bottom = instance.box
            flat = instance.mask.ravel()
            starts = np.flatnonzero(np.diff(flat, prepend=False))  # runs of pixels outside come first
            runs = np.diff(np.concatenate([[0], starts, [flat.size]]))
            self.lines.append(
                f'    <mask label={quoteattr(as_text(instance.label))} source="auto" occluded="0" '
                f'rle="{", ".join(map(str, runs.tolist()))}" left="{left}" top="{top}" width="{right - left}" '
                f'height="{bottom - top}" z_order="0"></mask>'
            )
        self.lines.append("  </image>")
        return []

    def finish(self) -> list[Path]:
        path = self.folder / str(self.file)
        labels = "".join(f"<label><name>{_text(label)}</name></label>" for label in self.labels)
        head = [
            '<?xml version="1.0" encoding="utf-8"?>',
            "<annotations>",
            "  <version>1.1</version>",
            f"  <meta><task><labels>{labels}</labels></task></meta>",
        ]
        write_atomically(path, "\n".join([*head, *self.lines, "</annotations>", ""]).encode())
        return [path]


@register_format("labelme")
class Labelme(Format):
    """A JSON file a picture: polygons to be edited; regions with holes, which its polygons can't have, as masks."""

    tolerance = 0.5
    help = "labelme: a JSON file a picture, polygons to be edited"
    suffix = ".json"

    def write(self, item: Item) -> list[Path]:
        path = self.path(item)
        height, width = item.result.size
        local = item.source is not None and "://" not in item.source
        if not local and item.result.picture is None:
            raise SettingError(
                f"{item.name} has neither a picture nor a file as its source; labelme needs one of them."
            )
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [shape for instance in self.instances(item) for shape in self._shapes(instance)],
            "imagePath": _way(path.parent, str(item.source)) if local else item.file,
            "imageData": None if local else _png(item.result.picture),
            "imageHeight": height,
            "imageWidth": width,
        }
        save_json(content, path)
        return [path]

    def _shapes(self, instance: Instance) -> Iterator[dict[str, Any]]:
        left, top, right, bottom = instance.box
        parts = instance.rings(self.tolerance)
        shape: dict[str, Any] = {"label": instance.label, "group_id": None, "description": "", "flags": {}}
        if any(len(part) > 1 or len(part[0]) < 3 for part in parts):
            mask = _png(Image.fromarray(instance.mask))
            corners = [[left, top], [right - 1, bottom - 1]]
            yield {**shape, "points": corners, "shape_type": "mask", "mask": mask}
            return
        for (ring,) in parts:
            yield {**shape, "points": (ring + 0.5).tolist(), "shape_type": "polygon", "mask": None}


def _png(picture: Image.Image | None) -> str:
    assert picture is not None
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _way(folder: Path, source: str) -> str:
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:  # on another drive
        return Path(source).absolute().as_posix()


def _text(label: str) -> str:
    return escape(as_text(label))


def _quoted(path: str) -> str:
    """A path as the value in a URL's query; bytes that are no text as they are."""
    return quote(os.fsencode(Path(path).as_posix().lstrip("/")))
