"""Pictures and arrays: a mask a class, cut-outs with transparency, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..draw.overlay import legend_of, overlay
from ..draw.sheet import side_by_side
from ..errors import SettingError
from ..imaging.marks import is_marked, marked, readable, save_options
from ..storage.files import save_image, write_atomically
from .base import Format, Item
from .registry import register_format

THUMBNAIL = 320  # pixels of the longer side
ON_A_SHEET = 60


@register_format("png")
class ClassMasks(Format):
    """``NAME/INDEX-LABEL.png`` of every class that occurs: 255 where it is, 0 elsewhere."""

    help = "a black and white PNG of every class in a picture"

    def write(self, item: Item) -> list[Path]:
        paths = []
        counts = np.bincount(item.result.label_map.ravel() + 1, minlength=len(self.labels) + 1)[1:]
        for index, label in enumerate(self.labels):
            if counts[index] and counts[index] >= self.min_area:
                path = self.folder / item.name / f"{index}-{readable(label)}.png"
                mask = (item.result.label_map == index).astype(np.uint8) * np.uint8(255)
                save_image(Image.fromarray(mask), path, **marked("PNG"))
                paths.append(path)
        return _alone(self.folder / item.name, paths)


@register_format("cutouts")
class CutOuts(Format):
    """``NAME/NUMBER-LABEL.png``: each thing alone, cut to its box, transparent around it; the largest first."""

    help = "every class, or every region, cut out of the picture with transparency"
    needs_picture = True
    regions = "classes"

    def write(self, item: Item) -> list[Path]:
        picture = item.result.picture
        assert picture is not None, "needs_picture says so"
        paths = []
        for number, instance in enumerate(self.instances(item)):
            cut = picture.crop(instance.box).convert("RGBA")
            cut.putalpha(Image.fromarray(instance.mask.astype(np.uint8) * np.uint8(255)))
            path = self.folder / item.name / f"{number}-{readable(instance.label)}.png"
            save_image(cut, path, **marked("PNG"))
            paths.append(path)
        return _alone(self.folder / item.name, paths)


def _alone(folder: Path, paths: list[Path]) -> list[Path]:
    """What was written; pictures of an earlier export, which nothing has replaced, are removed."""
    for old in set(folder.glob("*-*.png")) - set(paths):
        if old.name.partition("-")[0].isdigit() and is_marked(old):
            old.unlink(missing_ok=True)
    return paths


@register_format("sheet")
class ContactSheet(Format):
    """``sheet.jpg``, ``sheet.2.jpg``, …: all overlays small, 60 a sheet, with a legend of what is in them."""

    help = "contact sheets: the overlays of all pictures, small"
    common = "sheet.jpg"
    needs_picture = True
    suffix = ".jpg"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.panels: list[tuple[str, Image.Image]] = []
        self.maps: list[np.ndarray] = []
        self.sheets = 0

    def write(self, item: Item) -> list[Path]:
        assert item.result.picture is not None, "needs_picture says so"
        small = item.result.picture.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        height, width = item.result.size
        rows, columns = np.arange(small.height) * height // small.height, np.arange(small.width) * width // small.width
        label_map = item.result.label_map[rows[:, None], columns]
        self.panels.append((item.file, overlay(small, label_map, self.labels, legend=False)))
        self.maps.append(label_map)
        return self._sheet() if len(self.panels) == ON_A_SHEET else []

    def finish(self) -> list[Path]:
        written = self._sheet() if self.panels else []
        number = self.sheets + 1  # of a longer run before
        while (old := self._path(number)).is_file() and is_marked(old):
            old.unlink()
            number += 1
        return written

    def _sheet(self) -> list[Path]:
        self.sheets += 1
        path = self._path(self.sheets)
        sheet = side_by_side(self.panels, legend=legend_of(self.maps, self.labels))
        save_image(sheet, path, **save_options("JPEG", sheet.size))
        self.panels, self.maps = [], []
        return [path]

    def _path(self, number: int) -> Path:
        name = Path(str(self.file))
        return self.folder / (name if number == 1 else name.with_suffix(f".{number}{name.suffix}"))


@register_format("scores")
class Scores(Format):
    """``NAME.npy``: (classes, H, W) float32, as `Segmentation.scores` gives them."""

    help = "scores of all classes as a NumPy file"
    suffix = ".npy"

    def write(self, item: Item) -> list[Path]:
        scores = item.result.scores
        if scores is None:
            raise SettingError(f"{item.name} has no scores to write; give Segmentation some.")
        path = self.path(item)
        write_atomically(path, lambda file: np.save(file, scores))
        return [path]
