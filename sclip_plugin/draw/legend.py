"""The panel that says which colour is which class: entries flow into columns, beside a picture or below it.

A legend never covers the picture. Of all numbers of columns, beside and below, that layout is taken which makes the
smallest whole that is not too long for a page; so wide pictures get theirs below, tall ones beside, and sixty labels
make several columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image, ImageDraw

from . import fonts

__all__ = ["BACKGROUND", "INK", "Entry", "Panel", "arrange", "attach", "display_scale", "fill", "font_size"]

BACKGROUND = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (105, 110, 118)
LARGEST_SHARE = 1 / 3  # of the picture that a legend may add to it
SMALLEST = 256  # px: the longer side that a picture is enlarged to before text is set beside it


class Entry(NamedTuple):
    """One line of a legend: a name, the colour of its chip if it has one, and a note at the right, such as a share."""

    name: str
    colour: fonts.Colour | None
    note: str = ""


@dataclass
class Panel:
    """Entries with their places, ready to be drawn: `(x, y, column's right end, lines, entry)` for each."""

    size: int
    width: int = 0
    height: int = 0
    cut: float = 0.0  # the share of names that had to be cut
    places: list[tuple[int, int, int, tuple[str, ...], Entry]] = field(default_factory=list)

    def draw(self, image: Image.Image, left: int, top: int) -> None:
        """Draws the panel on an RGB picture, its upper left corner at (left, top)."""
        em, pen = self.size, ImageDraw.Draw(image)
        chip, edge = round(0.95 * em), max(1, em // 14)
        for x, y, right, lines, entry in self.places:
            x, y, right = left + x, top + y, left + right
            chip_top = y + (fonts.line_height(em) - chip) // 2
            if entry.colour is not None:
                pen.rectangle((x, chip_top, x + chip, chip_top + chip), fill=entry.colour, outline=INK, width=edge)
            for n, line in enumerate(lines):
                baseline = y + n * fonts.line_height(em) + fonts.ascent(em)
                fonts.draw_text(image, (x + round(1.5 * em), baseline), line, em, INK)
            if entry.note:
                baseline = y + fonts.ascent(em)
                fonts.draw_text(image, (right - fonts.text_width(entry.note, em), baseline), entry.note, em, FAINT)


def font_size(width: int, height: int) -> int:
    """The font size in pixels that stays readable when a picture of this size is shown on a page or a screen.

    Of a strip, which is seen in parts, the font does not grow with the long side alone: its legend would be many times
    as large as the picture.

    >>> font_size(500, 375), font_size(4000, 3000), font_size(32, 65535)
    (13, 77, 64)
    """
    by_area = math.sqrt(width * height) / 45
    return max(13, round(by_area), round(min(max(width, height) / 90, 2 * by_area)))


def display_scale(size: tuple[int, int]) -> int:
    """The whole factor that a picture of this (width, height) is enlarged by before text is set beside it.

    >>> display_scale((64, 48)), display_scale((256, 1)), display_scale((4000, 3000))
    (4, 1, 1)
    """
    return max(1, math.ceil(SMALLEST / max(size)))


def arrange(entries: Sequence[Entry], size: int, columns: int, widest: int) -> Panel:
    """Sets entries in columns of even height, from top to bottom and then to the right.

    Args:
        entries: what the panel lists, in order.
        size: the font size in pixels.
        columns: how many columns at most.
        widest: the most pixels that one column may take; longer names break into lines, then end in an ellipsis.

    >>> panel = arrange([Entry("cat", (0, 0, 0)), Entry("dog", (9, 9, 9))], size=20, columns=2, widest=300)
    >>> [name for _, _, _, (name,), _ in panel.places]
    ['cat', 'dog']
    """
    line, margin, between = fonts.line_height(size), round(0.6 * size), round(1.6 * size)
    chip, gap, row_gap = round(1.5 * size), round(0.8 * size), round(0.2 * size)
    note = max((fonts.text_width(e.note, size) + gap for e in entries if e.note), default=0)
    room = max(3 * size, min(22 * size, widest - chip - note))
    texts = [fonts.wrap_text(e.name, size, room, lines=3 if len(entries) <= 12 else 2) for e in entries]
    tall = [len(lines) * line + row_gap for lines in texts]
    limit = max(max(tall), math.ceil(sum(tall) / columns))
    while len(parts := _fill(tall, limit)) > columns:
        limit += line // 2 + 1
    panel = Panel(size, cut=sum(lines[-1].endswith("…") for lines in texts) / len(texts))
    x = margin
    for part in parts:
        name = max(fonts.text_width(text, size) for i in part for text in texts[i])
        y = margin
        for i in part:
            panel.places.append((x, y, x + chip + name + note, texts[i], entries[i]))
            y += tall[i]
        panel.height = max(panel.height, y - row_gap + margin)
        x += chip + name + note + between
    panel.width = x - between + margin
    return panel


def _fill(tall: Sequence[int], limit: int) -> list[list[int]]:
    parts: list[list[int]] = []
    used = limit + 1
    for i, height in enumerate(tall):
        if used + height > limit:
            parts.append([])
            used = 0
        parts[-1].append(i)
        used += height
    return parts


def attach(image: Image.Image, entries: Sequence[Entry], size: int | None = None) -> Image.Image:
    """Puts a legend beside or below a picture, whichever makes the smaller whole; the picture itself is at (0, 0).

    It adds at most a third of the picture: of many entries the first are listed, and how many more there are. (One is
    always listed, however small the picture.)

    Args:
        image: RGB.
        entries: what the legend lists, in order; without any, the picture is returned as it is.
        size: the font size in pixels; by default what suits the size of the picture.

    Returns:
        RGB, at least as large as the picture.

    >>> attach(Image.new("RGB", (300, 300)), [Entry("cat", (255, 0, 0), "12.5%")]).width
    300
    """
    if not entries:
        return image
    size = size or font_size(*image.size)
    whole, at, panel = _layout(image.size, entries, size)
    room = (1 + LARGEST_SHARE) * image.width * image.height
    if whole[0] * whole[1] > room:
        low, high = 1, len(entries) - 1  # the most that fit, with the line that tells of the others
        while low < high:
            middle = (low + high + 1) // 2
            (width, height), _, _ = _layout(image.size, shortened(entries, middle), size)
            low, high = (middle, high) if width * height <= room else (low, middle - 1)
        whole, at, panel = _layout(image.size, shortened(entries, low), size)
    canvas = Image.new("RGB", whole, BACKGROUND)
    canvas.paste(image)
    panel.draw(canvas, *at)
    return canvas


def shortened(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The first entries, and how many more there are."""
    more = len(entries) - count
    return [*entries[:count], Entry(f"+ {more} more", None)] if more > 0 else list(entries)


def _layout(
    picture: tuple[int, int], entries: Sequence[Entry], size: int
) -> tuple[tuple[int, int], tuple[int, int], Panel]:
    """The size of the whole, where the panel stands, and the panel: of all layouts the one that looks best."""
    across = picture[0]
    natural = max(across, 16 * size)
    least = arrange(entries, size, 1, natural).width
    options: list[tuple[float, tuple[int, int], tuple[int, int], Panel]] = []
    for columns in range(1, min(len(entries), 24) + 1):
        for widest in {natural, max(12 * size, across // columns - 2 * size)}:
            panel = arrange(entries, size, columns, widest)
            if panel.width > max(least, across):
                continue
            for at in (across, 0), (0, picture[1]):
                whole = max(across, at[0] + panel.width), max(picture[1], at[1] + panel.height)
                long = max(1.0, max(whole) / min(whole) / max(1.8, max(picture) / min(picture)))
                options.append((whole[0] * whole[1] * long * (1 + panel.cut), whole, at, panel))
    _, whole, at, panel = min(options, key=lambda option: option[0])
    return whole, at, panel


def fill(entries: Sequence[Entry], size: int, width: int) -> Panel:
    """A panel of the lowest height that `width` pixels allow: as many columns as fit.

    >>> fill([Entry("cat", (255, 0, 0)), Entry("dog", (0, 0, 255))], size=20, width=400).height
    51
    """
    if not entries:
        return Panel(size)
    panels = [arrange(entries, size, columns, width) for columns in range(1, min(len(entries), 24) + 1)]
    return next((panel for panel in reversed(panels) if panel.width <= width), panels[0])
