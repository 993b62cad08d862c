"""Pictures in a grid with captions: methods compared, predictions beside the ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..errors import SettingError
from . import fonts
from .legend import BACKGROUND, INK, LARGEST_SHARE, Entry, Panel, display_scale, fill, font_size, shortened

__all__ = ["side_by_side"]

WIDEST = 6000  # px: panels are shrunk rather than a sheet made wider


def side_by_side(
    panels: Sequence[tuple[str, Image.Image]],
    *,
    columns: int | None = None,
    legend: Sequence[Entry] = (),
    title: str | None = None,
) -> Image.Image:
    """Pictures in a grid of equal cells, each with its caption above: methods compared, predictions beside the truth.

    Every picture is shown as large as its cell allows, with its proportions. The sheet is at most 6000 px wide.

    Args:
        panels: captions and pictures (any mode), row by row.
        columns: how many stand side by side; by default what gives the sheet about the shape of a screen.
        legend: lines listed below the grid, the most important first: as many as a third of the grid has room for.
        title: a line above all.

    Returns:
        RGB.

    Raises:
        ValueError: there is no panel, or `columns` is not positive.

    >>> side_by_side([("csa, 0.1 s", Image.new("RGB", (300, 200))), ("naclip, 0.1 s", Image.new("L", (300, 200)))],
    ...              columns=2, legend=[Entry("cat", (255, 0, 0))], title="cat.jpg").width
    627
    """
    if not panels:
        raise SettingError("no panels were given; expected at least one (caption, picture)")
    if columns is not None and columns < 1:
        raise SettingError(f"columns is {columns}, expected 1 or more, or None")
    cell_width, cell_height = (int(np.median(sides)) for sides in zip(*(p.size for _, p in panels), strict=True))
    enlarge = display_scale((cell_width, cell_height))
    columns = min(columns or _screen_columns(len(panels), cell_width / cell_height), len(panels))
    shrink = min(enlarge, WIDEST / (1.05 * columns * cell_width), WIDEST / cell_height)
    cell_width, cell_height = max(1, int(cell_width * shrink)), max(1, int(cell_height * shrink))

    size = font_size(cell_width, cell_height)
    gap, line, column = round(0.7 * size), fonts.line_height(size), max(cell_width, 6 * size)
    width = columns * (column + gap) + gap
    heading = round(1.3 * size)
    names = fonts.wrap_text(title, heading, width - 2 * gap) if title else ()
    captions = [fonts.wrap_text(caption, size, column) for caption, _ in panels]
    above = max(len(lines) for lines in captions) * line
    top = gap // 2 + len(names) * fonts.line_height(heading) + (gap if names else 0)
    below = top + math.ceil(len(panels) / columns) * (above + cell_height + gap)
    key = _key(legend, size, width, below)
    sheet = Image.new("RGB", (max(width, key.width), below + key.height), BACKGROUND)
    for n, text in enumerate(names):
        baseline = gap // 2 + n * fonts.line_height(heading) + fonts.ascent(heading)
        fonts.draw_text(sheet, (gap, baseline), text, heading, INK)
    for n, (lines, (_, picture)) in enumerate(zip(captions, panels, strict=True)):
        x, y = gap + n % columns * (column + gap), top + n // columns * (above + cell_height + gap)
        for i, text in enumerate(lines, start=-len(lines)):  # the last line stands right above its picture
            fonts.draw_text(sheet, (x, y + above + i * line + fonts.ascent(size)), text, size, INK)
        shown = _fitted(picture, cell_width, cell_height)
        sheet.paste(shown, (x + (column - shown.width) // 2, y + above + (cell_height - shown.height) // 2))
    key.draw(sheet, 0, below)
    return sheet


def _key(entries: Sequence[Entry], size: int, width: int, height: int) -> Panel:
    """The legend of a grid of this size: the most lines that a third of its height has room for, one at least."""
    key = fill(entries, size, width)
    count = len(entries) - 1
    while key.height > height * LARGEST_SHARE and count > 0:
        key = fill(shortened(entries, count), size, width)
        count -= 1 + count // 8
    return key


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    kind = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, kind, reducing_gap=2.0)


def _screen_columns(count: int, proportion: float) -> int:
    def ugliness(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * proportion / rows / 1.6)) + 0.5 * (rows * columns - count) / count

    return min(range(1, count + 1), key=ugliness)
