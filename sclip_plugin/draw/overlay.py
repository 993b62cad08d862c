"""The pictures that people see of a segmentation: overlay with legend, heat map, palette PNG, panels side by side.

Pillow and numpy alone. Pixels are blended in stripes of bytes, so that a picture of 8000 x 6000 needs little more
memory than itself. Where text is set beside it, a picture whose longer side is under 256 px is enlarged by the smallest
whole factor that reaches 256 (nearest neighbour: every pixel becomes a square).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ArgumentTypeError, SettingError
from . import fonts
from . import legend as _legend
from .colours import NO_LABEL, Colours, colours_of, is_neutral, rgb
from .legend import BACKGROUND, FAINT, INK, Entry
from .sheet import side_by_side

__all__ = ["heatmap", "legend_of", "overlay", "palette_png", "side_by_side"]

Style = Literal["fill", "outline"]
STRIPE = 1 << 20  # pixels blended at once
MAGMA = """
000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c fb8761 fea571 fec287 fde0a1 fcfdbf
"""  # 17 of the 256 colours of matplotlib's magma (CC0); between them the map is linear to within 3/255


def overlay(
    picture: Image.Image,
    label_map: np.ndarray,
    labels: Sequence[str],
    *,
    opacity: float = 0.55,
    style: Style = "fill",
    legend: bool = True,
    colours: Colours | None = None,
) -> Image.Image:
    """Colours every region of a picture, with thin borders, and says beside or below it which colour is which.

    The legend lists the labels that occur, the largest area first, with their share of the picture; of many, as many as
    a third of the picture has room for. It does not cover the picture, which lies at the upper left; a small one is
    enlarged (see the first lines of this file). What has no label, or the label ``"background"``, is not painted.

    Args:
        picture: any mode; what the label map was made from.
        label_map: (H, W) integers as large as the picture: positions in `labels`, -1 where there is no label.
        labels: a name for each class, in any script.
        opacity: how much of the colour shows, 0 to 1. What is not painted is greyed as much.
        style: ``"fill"``, or ``"outline"`` for borders only, over the picture as it is.
        legend: whether to add the legend; without it the result has the size of the picture.
        colours: by name, in place of a word's own; see `colours.colours_of`.

    Returns:
        RGB.

    Raises:
        TypeError: `labels` is a text, or holds what is no text; the label map is not of integers.
        ValueError: the label map has another size than the picture or a value that is no label; opacity outside 0 to 1.

    >>> picture = Image.new("RGB", (400, 300), "white")
    >>> label_map = np.zeros((300, 400), int)
    >>> label_map[:, 200:] = 1
    >>> overlay(picture, label_map, ["cat", "sofa"], legend=False).size
    (400, 300)
    >>> overlay(picture, label_map, ["cat", "sofa"]).size > (400, 300)
    True
    """
    names = _checked_labels(labels)
    label_map = _checked_map(label_map, len(names), picture)
    if not 0 <= opacity <= 1:
        raise SettingError(f"opacity is {opacity}, expected 0 (picture only) to 1 (colours only)")
    areas = _areas(label_map, len(names))
    if style not in get_args(Style):
        raise SettingError(f"style={style!r}; expected 'fill' or 'outline'")
    table = np.concatenate([[NO_LABEL], colours_of(names, colours)]).astype(np.uint8)
    neutral = np.array([True, *map(is_neutral, names)])
    scale = _legend.display_scale(picture.size) if legend else 1
    enlarged = _enlarged(picture, scale), _repeated(label_map, scale)
    result = _blended(*enlarged, table, neutral, opacity) if style == "fill" else _outlined(*enlarged, table, neutral)
    return _legend.attach(result, _entries(names, table, areas)) if legend else result


def legend_of(label_maps: Sequence[np.ndarray], labels: Sequence[str], colours: Colours | None = None) -> list[Entry]:
    """What a legend says of several label maps together: the labels that occur, the largest first, with their share."""
    names = _checked_labels(labels)
    table = np.concatenate([[NO_LABEL], colours_of(names, colours)]).astype(np.uint8)
    areas = np.sum([_areas(_checked_map(label_map, len(names)), len(names)) for label_map in label_maps], axis=0)
    return _entries(names, table, areas)


def _areas(label_map: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) pixels without a label, then of each label."""
    areas = np.zeros(count + 1, np.int64)
    for rows in _stripes(*label_map.shape):
        areas += np.bincount(label_map[rows].ravel().astype(np.intp) + 1, minlength=count + 1)
    return areas


def _entries(names: Sequence[str], table: np.ndarray, areas: np.ndarray) -> list[Entry]:
    """Lines of a legend: of labels that occur the largest first, at the end what has none."""
    shares = areas / areas.sum()
    order = [i + 1 for i in np.argsort(-areas[1:], kind="stable").tolist() if areas[i + 1]]
    entries = [Entry(names[i - 1], rgb(table[i]), percent(shares[i])) for i in order]
    return [*entries, Entry("(no label)", NO_LABEL, percent(shares[0]))] if areas[0] else entries


def heatmap(
    picture: Image.Image,
    scores: np.ndarray,
    label: str,
    *,
    stretch: bool = False,
    what: str = "score",
    grey_to: float = 0.0,
) -> Image.Image:
    """Shows where a picture answers to one word: scores as colours over the grey picture, with a colour bar.

    Args:
        picture: any mode; a small one is enlarged (see the first lines of this file).
        scores: (H, W) as large as the picture, from 0 (dark) to 1 (bright); with ``stretch`` any numbers.
        label: the word, written below the picture.
        stretch: dark is the lowest value of this picture, bright the highest, whatever they are.
        what: what the numbers are, written above the bar.
        grey_to: up to this level, from 0 to below 1, the picture stays grey; colours grow stronger from there to 1.

    Returns:
        RGB; the picture at the upper left, label and colour bar below it.

    Raises:
        TypeError: the scores are not numbers.
        ValueError: the scores have another size than the picture, or lie outside 0 to 1, or are not finite.

    >>> heatmap(Image.new("L", (300, 200)), np.linspace(0, 1, 60000).reshape(200, 300), "cat").width
    300
    """
    scores = np.asarray(scores)
    if scores.dtype.kind not in "fiub":
        raise ArgumentTypeError(f"scores are of type {scores.dtype}, expected numbers from 0 to 1")
    _check_size("scores", scores, picture)
    if not 0 <= grey_to < 1:
        raise SettingError(f"grey_to is {grey_to}, expected 0 (colours everywhere) to below 1")
    low, high = float(scores.min()), float(scores.max())
    if not stretch and not (low >= 0 and high <= 1):
        raise SettingError(f"scores go from {low:g} to {high:g}, expected 0 to 1; rescale them, or give stretch=True")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SettingError(f"scores go from {low:g} to {high:g}, expected finite numbers")
    ends = ("0", "1")
    if stretch:
        ends, what = _ends(low, high), f"{what}, stretched to this picture's range"
        scores = (scores.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    scale = _legend.display_scale(picture.size)
    image, scores, colours, strength = _enlarged(picture, scale), _repeated(scores, scale), _magma(), _strength(grey_to)
    result = Image.new("RGB", image.size)
    for rows in _stripes(*scores.shape):
        levels = (scores[rows] * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        grey = _rows_of(image, rows).convert("L").convert("RGB")
        shown = Image.fromarray(strength[levels])
        result.paste(Image.composite(_looked_up(colours, levels), grey, shown), (0, rows.start))
    covered = (strength / strength.max())[:, None]
    return _with_bar(result, label, what, ends, (covered * colours + (1 - covered) * NO_LABEL).astype(np.uint8))


def palette_png(label_map: np.ndarray, labels: Sequence[str], colours: Colours | None = None) -> Image.Image:
    """A label map as a picture that keeps the numbers: saved as PNG, it reads back to exactly the same indices.

    Up to 255 classes: mode P, the way of VOC, each index shown in its name's colour, 255 for no label. More: mode
    I;16 (16-bit grey), 65535 for no label.

    Args:
        label_map: (H, W) integers, positions in ``labels``, or -1 for no label.
        labels: names of the classes, up to 65535; their number decides the mode, whatever classes occur.
        colours: by name, in place of a word's own.

    Returns:
        Mode P or I;16, as large as the label map.

    Raises:
        TypeError: the label map is not of integers.
        ValueError: too many classes, or a value that is no label.

    >>> np.asarray(palette_png(np.array([[0, 1, -1]]), ["cat", "dog"])).tolist()
    [[0, 1, 255]]
    """
    names = _checked_labels(labels)
    count = len(names)
    if count > 65535:
        raise SettingError(f"{count} classes don't fit a palette PNG; expected at most 65535")
    label_map = _checked_map(label_map, count)
    if count > 255:
        return Image.fromarray(label_map.astype(np.uint16))  # -1 wraps round to 65535
    image = Image.fromarray(label_map.astype(np.uint8))  # -1 wraps round to 255
    table = np.zeros((256, 3), np.uint8)
    table[:count] = colours_of(names, colours)
    table[255] = NO_LABEL
    image.putpalette(table.tobytes())
    return image


# ---- pixels --------------------------------------------------------------------------------------------------------


def _blended(
    picture: Image.Image, label_map: np.ndarray, table: np.ndarray, neutral: np.ndarray, opacity: float
) -> Image.Image:
    """Colour over picture by `opacity`, the full colour within a line's width of another region."""
    line = max(1, round(math.sqrt(label_map.size) / 700))  # on each side of a border
    result = Image.new("RGB", picture.size)
    for rows, own, edge in _bands(label_map, line):
        strength = np.where(edge, np.uint8(255), np.uint8(round(255 * opacity)))
        base = _rows_of(picture, rows)
        empty = neutral[own]
        if empty.any():
            strength[empty] = 0
            greyed = Image.blend(base, base.convert("L").convert("RGB"), opacity)
            base = Image.composite(greyed, base, Image.fromarray(empty))
        result.paste(Image.composite(_looked_up(table, own), base, Image.fromarray(strength)), (0, rows.start))
    return result


def _outlined(picture: Image.Image, label_map: np.ndarray, table: np.ndarray, neutral: np.ndarray) -> Image.Image:
    """The picture, with a line in each region's colour along the inside of its border."""
    line = max(2, round(math.sqrt(label_map.size) / 250))
    result = Image.new("RGB", picture.size)
    for rows, own, edge in _bands(label_map, line):
        drawn = Image.fromarray(edge & ~neutral[own])
        result.paste(Image.composite(_looked_up(table, own), _rows_of(picture, rows), drawn), (0, rows.start))
    return result


def _bands(label_map: np.ndarray, line: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some rows at a time: which, their positions in a table that begins with no label, and where borders are."""
    index = np.dtype(np.uint16 if int(label_map.max()) < 65534 else np.int32)
    for rows in _stripes(*label_map.shape):
        above = min(rows.start, line)
        own = label_map[rows.start - above : rows.stop + line].astype(index)
        own += 1
        inner = slice(above, above + rows.stop - rows.start)
        yield rows, own[inner], _edges(own, line)[inner]


def _looked_up(colours: np.ndarray, index: np.ndarray) -> Image.Image:
    """The RGB picture whose pixels are rows of `colours`; a look-up of four bytes at once is the fastest in numpy."""
    words = np.pad(colours, ((0, 0), (0, 1))).view(np.uint32).ravel()
    return Image.frombytes("RGB", index.shape[::-1], np.take(words, index).tobytes(), "raw", "RGBX")


def _edges(own: np.ndarray, line: int) -> np.ndarray:
    """Where the label `line` pixels to the left, right, above or below is another one; (H, W) bool."""
    edge = np.zeros(own.shape, bool)
    across, down = own[:, line:] != own[:, :-line], own[line:] != own[:-line]
    edge[:, :-line] |= across
    edge[:, line:] |= across
    edge[:-line] |= down
    edge[line:] |= down
    return edge


def _stripes(height: int, width: int) -> Iterator[slice]:
    step = max(1, STRIPE // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _rows_of(image: Image.Image, rows: slice) -> Image.Image:
    if rows == slice(0, image.height):  # also an enlarged one, which `crop` may find too large to be true
        return image
    return image.crop((0, rows.start, image.width, rows.stop))


def _enlarged(picture: Image.Image, scale: int) -> Image.Image:
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    size = picture.width * scale, picture.height * scale
    return picture if scale == 1 else picture.resize(size, Image.Resampling.NEAREST)


def _repeated(values: np.ndarray, scale: int) -> np.ndarray:
    return values if scale == 1 else values.repeat(scale, 0).repeat(scale, 1)


# ---- colours and words ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _magma() -> np.ndarray:
    """(256, 3) uint8, from dark to bright."""
    knots = np.frombuffer(bytes.fromhex(MAGMA), np.uint8).reshape(-1, 3)
    at = np.round(np.linspace(0, 255, len(knots)))
    return np.stack([np.interp(np.arange(256), at, knots[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def _strength(grey_to: float) -> np.ndarray:
    """(256,) uint8: how much of each level's colour covers the grey picture. Just above `grey_to` it is hardly any."""
    if not grey_to:
        return np.full(256, round(0.64 * 255), np.uint8)
    above = (np.arange(256) / 255 - grey_to).clip(0) / (1 - grey_to)
    return np.round(0.9 * 255 * above**1.5).astype(np.uint8)


def _ends(low: float, high: float) -> tuple[str, str]:
    """Two numbers as short as their distance allows.

    >>> _ends(1.5e-15, 0.9961), _ends(-0.12345, -0.12111)
    (('0', '0.996'), ('-0.12345', '-0.12111'))
    """
    digits = 3 - math.ceil(math.log10(high - low)) if high > low else 3
    return f"{round(low, digits):.12g}", f"{round(high, digits):.12g}"


def percent(share: float) -> str:
    """A share as legends say it."""
    return f"{100 * share:.1f}%" if share >= 0.0005 else "<0.1%"


def _with_bar(image: Image.Image, label: str, what: str, ends: tuple[str, str], colours: np.ndarray) -> Image.Image:
    """Adds the label, what the colours say, and the colour bar below a picture."""
    size = _legend.font_size(*image.size)
    gap, line, width = round(0.6 * size), fonts.line_height(size), max(image.width, 14 * size)
    lines = fonts.wrap_text(label, size, width - 2 * gap, lines=3)
    said = fonts.wrap_text(what, size, width - 2 * gap, lines=2)
    top = image.height + gap // 2
    canvas = Image.new("RGB", (width, top + (len(lines) + len(said) + 1) * line + gap), BACKGROUND)
    canvas.paste(image)
    for n, text in enumerate([*lines, *said]):
        ink = INK if n < len(lines) else FAINT
        fonts.draw_text(canvas, (gap, top + n * line + fonts.ascent(size)), text, size, ink)
    baseline = top + (len(lines) + len(said)) * line + fonts.ascent(size)
    left = 2 * gap + fonts.draw_text(canvas, (gap, baseline), ends[0], size, INK)
    right = width - 2 * gap - fonts.text_width(ends[1], size)
    fonts.draw_text(canvas, (right + gap, baseline), ends[1], size, INK)
    bar = Image.fromarray(colours[None]).resize((right - left, round(0.75 * size)), Image.Resampling.BILINEAR)
    canvas.paste(bar, (left, baseline - bar.height))
    ImageDraw.Draw(canvas).rectangle((left, baseline - bar.height, right - 1, baseline - 1), outline=INK)
    return canvas


# ---- what is refused -----------------------------------------------------------------------------------------------


def _checked_labels(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str):
        raise ArgumentTypeError(f"labels is the text {labels!r}, expected a list of names such as {[labels]!r}")
    for name in labels:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"labels holds {name!r} ({type(name).__name__}), expected names as text")
    return list(labels)


def _checked_map(label_map: np.ndarray, count: int, picture: Image.Image | None = None) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.dtype.kind not in "iu":
        raise ArgumentTypeError(
            f"the label map is of type {label_map.dtype}, expected integers; convert it by .astype(int)"
        )
    _check_size("the label map", label_map, picture)
    low, high = int(label_map.min()), int(label_map.max())
    if low < -1 or high >= count:
        raise SettingError(
            f"the label map goes from {low} to {high}, but there are {count} labels: expected 0 to {count - 1}, "
            "and -1 where there is no label"
        )
    return label_map


def _check_size(what: str, values: np.ndarray, picture: Image.Image | None) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise SettingError(f"{what} has shape {values.shape}, expected (height, width) with neither being 0")
    if picture is None:
        return
    if not isinstance(picture, Image.Image):
        raise ArgumentTypeError(
            f"the picture is {type(picture).__name__}, expected a PIL image; see PIL.Image.fromarray"
        )
    if values.shape != (picture.height, picture.width):
        raise SettingError(
            f"{what} is {values.shape[0]} x {values.shape[1]} (height x width), "
            f"but the picture is {picture.height} x {picture.width}; resize one to the other"
        )
