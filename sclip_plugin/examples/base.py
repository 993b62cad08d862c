"""What readers of annotations give: pictures with regions, painted into label maps."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import FileFormatError
from ..imaging.finding import PICTURE_SUFFIXES, files_in
from ..imaging.opening import TURNS, opened, orientation
from ..memory.examples import IGNORED, UNLABELLED

ALIKE = 0.02
"""How far the proportions of a mask and its picture may differ: sizes are rounded."""


@dataclass(frozen=True)
class Region:
    """One annotated thing.

    Fields:
        category: its name; None: nothing is to be learnt from its pixels (a crowd).
        draw: function from (height, width) to its mask, bool.
    """

    category: str | None
    draw: Callable[[tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Annotated:
    """A picture and its regions.

    Fields:
        picture: its file, or the bytes of one.
        name: for messages.
        regions: in any order; a smaller one lies on top of a larger one.
        size: (height, width) that the regions are drawn at; None: the picture's own.
    """

    picture: Path | bytes
    name: str
    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None

    def label_map(self, categories: Sequence[str]) -> np.ndarray:
        """(H, W) int16 of the picture as it is seen upright: index into ``categories``, `UNLABELLED` or `IGNORED`.

        Raises:
            FileFormatError: regions of other proportions than the picture, or that can't be drawn.
        """
        raw, upright, turn = _sizes(self.picture)
        size = self.size or upright
        try:
            masks = [(region, np.asarray(region.draw(size), bool)) for region in self.regions]
        except Exception as error:  # whatever broken outlines make of those that draw them
            raise FileFormatError(f"a region of {self.name} cannot be drawn: {error}") from error
        painted = np.full(size, UNLABELLED, np.int16)
        known = sorted(masks, key=lambda each: (each[0].category is not None, -int(each[1].sum())))
        for region, mask in known:  # what is not to be learnt from lies below all others
            painted[mask] = IGNORED if region.category is None else categories.index(region.category)
        if _like(size, upright):
            return painted
        if turn is not None and _like(size, raw):  # annotated without regard to EXIF
            return np.asarray(Image.fromarray(painted.astype(np.int32)).transpose(turn)).astype(np.int16)
        raise FileFormatError(
            f"the annotation of {self.name} is {size[1]} x {size[0]}, its picture {upright[1]} x {upright[0]}; "
            "expected the same proportions."
        )

    def may_be_turned(self) -> bool:
        """Whether EXIF turns the picture such that its size does not tell how it was annotated."""
        raw, upright, turn = _sizes(self.picture)
        return turn is not None and _like(raw, upright)


@dataclass
class Examples:
    """Annotated pictures, as they were read.

    Fields:
        kind: the form that they had, in words.
        categories: all that the annotations name, in their order.
        items: the pictures.
        problems: what was left out, in sentences.
    """

    kind: str
    categories: list[str] = field(default_factory=list)
    items: list[Annotated] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, *categories: str) -> None:
        """Name categories; those that are known already stay where they are."""
        self.categories += [name for name in dict.fromkeys(categories) if name not in self.categories]


class Pictures:
    """Where the pictures of annotations are.

    Args:
        places: folders, which are searched through, and files.
    """

    def __init__(self, places: Iterable[Path]) -> None:
        self.places = list(places)

    @cached_property
    def files(self) -> list[Path]:
        """All files, in order."""
        return [file for place in self.places for file in (files_in(place) if place.is_dir() else [place])]

    @cached_property
    def _named(self) -> dict[str, list[Path]]:
        named: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            if file.suffix.lower() in PICTURE_SUFFIXES:
                named[file.name].append(file)
                named[file.stem].append(file)
        return named

    def find(self, name: str, near: Path) -> Path | None:
        """The picture of that path or name, from a folder or anywhere in the places; None if it is not there once."""
        name = name.replace("\\", "/")
        for folder in (near, near / "images", *self.places):
            if folder.is_dir() and (folder / name).is_file():
                return folder / name
        last = name.rpartition("/")[2]
        found = self._named.get(last) or self._named.get(os.path.splitext(last)[0], [])
        return found[0] if len(found) == 1 else None


def polygon(points: Any) -> Callable[[tuple[int, int]], np.ndarray]:
    """What draws the inside and the outline of (n, 2) points x, y, as annotation programs show them."""
    corners = [(float(x), float(y)) for x, y in points]
    if len(corners) < 3:
        raise ValueError(f"an outline of {len(corners)} points; expected 3 or more")

    def draw(size: tuple[int, int]) -> np.ndarray:
        mask = Image.new("1", size[::-1])
        ImageDraw.Draw(mask).polygon(corners, outline=1, fill=1)
        return np.asarray(mask)

    return draw


def pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    """x, y, x, y, … as points."""
    return zip(values[::2], values[1::2], strict=True)


def placed(mask: np.ndarray, left: int, top: int) -> Callable[[tuple[int, int]], np.ndarray]:
    """What draws a mask with its corner at a place."""

    def draw(size: tuple[int, int]) -> np.ndarray:
        full = np.zeros(size, bool)
        part = full[top : top + mask.shape[0], left : left + mask.shape[1]]
        part[:] = mask[: part.shape[0], : part.shape[1]]
        return full

    return draw


def _sizes(picture: Path | bytes) -> tuple[tuple[int, int], tuple[int, int], Image.Transpose | None]:
    """(height, width) as it lies in the file and upright, and the turn from one to the other."""
    from ..imaging.opening import named_bytes

    with opened(named_bytes(picture, "a picture in an annotation") if isinstance(picture, bytes) else picture) as file:
        turn = TURNS.get(orientation(file))
        raw = (file.height, file.width)
        swapped = orientation(file) > 4
    return raw, raw[::-1] if swapped else raw, turn


def _like(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return abs(first[0] * second[1] - first[1] * second[0]) <= ALIKE * first[0] * second[1]
