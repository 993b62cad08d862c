"""What a search found, to look at: each picture with the place of each word."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..draw.colours import Colours
from ..draw.overlay import legend_of, overlay
from ..draw.sheet import side_by_side
from ..errors import PictureError, SettingError
from ..imaging.pictures import read_picture
from .results import Hit

SIDE = 480  # px: the longer side of a picture on the sheet, at most
FADED = 0.5  # towards white, where no word is


def contact_sheet(
    hits: Sequence[Hit], title: str | None = None, report: Callable[[str], object] = warnings.warn
) -> Image.Image:
    """The pictures of a search, the best first; the places of its words outlined in their colours, the rest faded.

    Where two words meet, the one named first is on top.

    Args:
        hits: of one search, one at least.
        title: a line above all.
        report: is told of each picture that can't be read any more; it is left out.

    Returns:
        RGB.

    Raises:
        PictureError: not one of the pictures can be read.
    """
    if not hits:
        raise SettingError("nothing was found, so there is nothing to draw; expected one hit or more.")
    words = list(hits[0].scores)
    panels, maps = [], []
    for rank, hit in enumerate(hits, start=1):
        try:
            drawn, label_map = _drawn(hit, SIDE)
        except PictureError as error:
            report(str(error))
            continue
        panels.append((f"{rank}. {hit.path}  {hit.score:.3f}", drawn))
        maps.append(label_map)
    if not panels:
        raise PictureError(
            f"not one of the {len(hits)} pictures that were found can be read. If the collection was moved, run 'sclip "
            "index' with the folder where it is now."
        )
    legend = [entry for entry in legend_of(maps, words) if entry.name in words] if len(words) > 1 else []
    return side_by_side(panels, legend=legend, title=title)


def with_places(hit: Hit, side: int = SIDE) -> tuple[Image.Image, np.ndarray]:
    """One picture as `contact_sheet` shows it, its longer side ``side`` pixels at most; and its places.

    Returns:
        RGB, grey where the picture is gone, and (H, W) integers: of each pixel the word whose place it is, -1 where
        there is none.
    """
    try:
        return _drawn(hit, side)
    except PictureError:
        label_map = places(hit, _shrunk(hit, side))
        return Image.new("RGB", label_map.shape[::-1], "lightgrey"), label_map


def _drawn(hit: Hit, side: int) -> tuple[Image.Image, np.ndarray]:
    size = _shrunk(hit, side)
    picture = read_picture(hit.file).resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=2.0)
    label_map = places(hit, size)
    return outlined(picture, label_map, list(hit.scores)), label_map


def _shrunk(hit: Hit, side: int) -> tuple[int, int]:
    shrink = min(1.0, side / max(hit.size))
    return max(1, round(hit.size[0] * shrink)), max(1, round(hit.size[1] * shrink))


def places(hit: Hit, size: tuple[int, int] | None = None) -> np.ndarray:
    """Which word's place each pixel is: (H, W) integers, -1 where it is no word's. Arguments as for `Hit.heat`."""
    label_map = np.full(size or hit.size, -1)
    for index, word in reversed(list(enumerate(hit.scores))):
        label_map[hit.mask(word, size)] = index
    return label_map


def outlined(
    picture: Image.Image, label_map: np.ndarray, words: Sequence[str], colours: Colours | None = None
) -> Image.Image:
    """A picture, RGB, with the places that `places` gives outlined, and the rest faded."""
    around = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, "white"), FADED)
    shown = Image.composite(picture, around, Image.fromarray(label_map >= 0))
    return overlay(shown, label_map, words, style="outline", legend=False, colours=colours)
