"""Reliability diagrams: how often scores are right, beside what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from . import fonts
from .legend import BACKGROUND, FAINT, INK

__all__ = ["reliability"]

SIDE, COUNTS, GAP, LEFT, TOP, SIZE = 400, 70, 14, 76, 74, 17
FINE = 4  # shapes are drawn so many times as large, then shrunk: smooth edges
RIGHT, MISSING, GRID = (42, 120, 142), (222, 165, 140), (228, 230, 234)


def reliability(panels: Sequence[tuple[str, str, np.ndarray]]) -> Image.Image:
    """One diagram for each kind of score, side by side.

    A bar is the share of scores in a bin that are right; a line is their mean, and what a bar lacks is shaded. On the
    dashed diagonal a score of 0.8 is right in 80 %. Below: the number of scores in each bin.

    Args:
        panels: a title, a second line, and (bins, 3): number of scores in the bin, their sum, how many are right.

    Returns:
        RGB, 510 px a panel.

    Example:
        >>> reliability([("presence", "Brier 0.002", np.array([[90, 4, 2], [10, 9, 9]]))]).size
        (510, 640)
    """
    width, height = LEFT + SIDE + 34, TOP + SIDE + GAP + COUNTS + 82
    sheet = Image.new("RGB", (len(panels) * width, height), BACKGROUND)
    for n, (title, below, table) in enumerate(panels):
        left = n * width + LEFT
        shapes = _shapes(np.asarray(table, np.float64)).resize(
            (SIDE + 2, SIDE + GAP + COUNTS + 2), Image.Resampling.BOX
        )
        sheet.paste(shapes, (left, TOP))
        fonts.draw_text(sheet, (left, 30), title, 22, INK)
        fonts.draw_text(sheet, (left, 56), below, SIZE - 2, FAINT)
        for tick in range(6):
            text, at = f"{tick / 5:.1f}", round(tick / 5 * SIDE)
            fonts.draw_text(sheet, (left - 8 - fonts.text_width(text, SIZE - 3), TOP + SIDE - at + 5), text, 14, FAINT)
            x = left + at - fonts.text_width(text, SIZE - 3) // 2
            fonts.draw_text(sheet, (x, TOP + SIDE + GAP + COUNTS + 22), text, SIZE - 3, FAINT)
        under = TOP + SIDE + GAP + COUNTS + 52
        said = "score; a line is the mean of a bin"
        fonts.draw_text(sheet, (left + (SIDE - fonts.text_width(said, SIZE)) // 2, under), said, SIZE, INK)
        _upright(sheet, "share that is right", (left - 66, TOP + SIDE // 2))
        most = f"{int(table[:, 0].max()):,}" if len(table) else ""
        fonts.draw_text(sheet, (left - 8 - fonts.text_width(most, 12), TOP + SIDE + GAP + 12), most, 12, FAINT)
    return sheet


def _shapes(table: np.ndarray) -> Image.Image:
    """Bars, lines and frames, `FINE` times as large."""
    side, full = SIDE * FINE, (SIDE + GAP + COUNTS) * FINE
    image = Image.new("RGB", ((SIDE + 2) * FINE, full + 2 * FINE), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for tick in range(1, 5):
        at = side * tick // 5
        pen.line((0, at, side, at), fill=GRID, width=FINE)
        pen.line((at, 0, at, side), fill=GRID, width=FINE)
    step, edge = side / len(table), 2 * FINE
    counts = table[:, 0]
    for n, (count, total, right) in enumerate(table.tolist()):
        x0, x1 = round(n * step) + edge, round((n + 1) * step) - edge
        tall = counts[n] / max(counts.max(), 1) * COUNTS * FINE
        if not count:
            continue
        pen.rectangle((x0, full - max(tall, FINE), x1, full), fill=RIGHT)
        says, true = side * (1 - total / count), side * (1 - right / count)
        pen.rectangle((x0, min(says, true), x1, max(says, true)), fill=MISSING)
        pen.rectangle((x0, true, x1, side), fill=RIGHT)
        pen.line((x0, says, x1, says), fill=INK, width=edge)
    for n in range(0, side, 12 * FINE):
        pen.line((n, side - n, n + 6 * FINE, side - n - 6 * FINE), fill=FAINT, width=FINE + 2)
    pen.rectangle((0, 0, side, side), outline=INK, width=FINE)
    pen.line((0, full, side, full), fill=INK, width=FINE)
    return image


def _upright(sheet: Image.Image, text: str, middle: tuple[int, int]) -> None:
    """A text that reads upward."""
    width, height = fonts.text_width(text, SIZE), fonts.line_height(SIZE)
    tile = Image.new("RGB", (width, height), BACKGROUND)
    fonts.draw_text(tile, (0, fonts.ascent(SIZE)), text, SIZE, INK)
    sheet.paste(tile.transpose(Image.Transpose.ROTATE_90), (middle[0], middle[1] - width // 2))
