"""Pictures and arrays: a mask a class, cut-outs with transparency, scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..files import save_image, write_atomically
from ..imaging.marks import is_marked, marked, readable
from .base import Format, Item, needed
from .registry import register_format


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
    regions = "classes"

    def write(self, item: Item) -> list[Path]:
        picture = needed(item.result.picture, "picture", item, self)
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


@register_format("scores")
class Scores(Format):
    """``NAME.npy``: (classes, H, W) float32, as `Segmentation.scores` gives them."""

    help = "scores of all classes as a NumPy file"
    suffix = ".npy"

    def write(self, item: Item) -> list[Path]:
        scores = needed(item.result.scores, "scores", item, self)
        path = self.path(item)
        write_atomically(path, lambda file: np.save(file, scores))
        return [path]
