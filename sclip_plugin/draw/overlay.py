"""The pictures that people see of a segmentation: overlay with legend, heat map, palette PNG, panels side by side.

Pillow and numpy alone. Pixels are blended in stripes of bytes, so that a picture of 8000 x 6000 needs little more
memory than itself. Where text is set beside it, a picture whose longer side is under 256 px is enlarged by the smallest
whole factor that reaches 256 (nearest neighbour: every pixel becomes a square).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ArgumentTypeError, SettingError
from . import fonts
from . import legend as _legend
from .legend import BACKGROUND, INK, Entry
from .sheet import side_by_side

__all__ = ["heatmap", "overlay", "palette", "palette_png", "side_by_side"]

UNLABELLED = (128, 128, 128)
STRIPE = 1 << 20  # pixels blended at once
MAGMA = """
000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c fb8761 fea571 fec287 fde0a1 fcfdbf
"""  # 17 of the 256 colours of matplotlib's magma (CC0); between them the map is linear to within 3/255


def palette(count: int) -> np.ndarray:
    """The colours of labels 0 to count - 1. The colour of a label does not depend on how many labels there are.

    The first eight can be told apart with the common kinds of colour blindness; the first 256 are spread as far as
    possible (`assets/palette.txt`); those beyond are merely different.

    Args:
        count: how many, 0 or more.

    Returns:
        (count, 3) uint8, RGB.

    Raises:
        ValueError: `count` is negative.

    >>> palette(2).tolist()
    [[230, 159, 0], [0, 114, 178]]
    """
    if count < 0:
        raise SettingError(f"can't make {count} colours; give 0 or more")
    chosen = _chosen_colours()
    if count <= len(chosen):
        return chosen[:count].copy()
    codes = np.arange(count, dtype=np.int64) * 0x9E3779 % (1 << 24)  # an odd factor permutes the 2^24 colours
    codes = codes[~np.isin(codes, chosen @ np.array([1 << 16, 1 << 8, 1]))][: count - len(chosen)]
    rest = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)
    return np.concatenate([chosen, rest])


def overlay(
    picture: Image.Image,
    label_map: np.ndarray,
    labels: Sequence[str],
    *,
    opacity: float = 0.55,
    legend: bool = True,
) -> Image.Image:
    """Colours every region of a picture, with thin borders, and says beside or below it which colour is which.

    The legend lists the labels that occur, the largest area first, with their share of the picture. It does not cover
    the picture, which lies at the upper left; a small one is enlarged (see the first lines of this file).

    Args:
        picture: any mode; what the label map was made from.
        label_map: (H, W) integers as large as the picture: positions in `labels`, -1 where there is no label.
        labels: a name for each class, in any script.
        opacity: how much of the colour shows, 0 to 1. What has no label is greyed instead.
        legend: whether to add the legend; without it the result has the size of the picture.

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
    areas = np.zeros(len(names) + 1, np.int64)
    for rows in _stripes(*label_map.shape):
        areas += np.bincount(label_map[rows].ravel().astype(np.intp) + 1, minlength=len(areas))
    colours = palette(len(names))
    scale = _legend.display_scale(picture.size) if legend else 1
    result = _blended(_enlarged(picture, scale), _repeated(label_map, scale), colours, opacity)
    if not legend:
        return result
    shares = areas / label_map.size
    order = [i for i in np.argsort(-areas[1:], kind="stable").tolist() if areas[1 + i]]
    entries = [Entry(names[i], _legend.rgb(colours[i]), _percent(shares[1 + i])) for i in order]
    if areas[0]:
        entries.append(Entry("(no label)", UNLABELLED, _percent(shares[0])))
    return _legend.attach(result, entries)


def heatmap(picture: Image.Image, scores: np.ndarray, label: str) -> Image.Image:
    """Shows where a picture answers to one word: scores as colours over the grey picture, with a colour bar.

    Args:
        picture: any mode; a small one is enlarged (see the first lines of this file).
        scores: (H, W) as large as the picture, from 0 (dark) to 1 (bright).
        label: the word, written below the picture.

    Returns:
        RGB; the picture at the upper left, label and colour bar below it.

    Raises:
        TypeError: the scores are not numbers.
        ValueError: the scores have another size than the picture, or lie outside 0 to 1, or some are NaN.

    >>> heatmap(Image.new("L", (300, 200)), np.linspace(0, 1, 60000).reshape(200, 300), "cat").width
    300
    """
    scores = np.asarray(scores)
    if scores.dtype.kind not in "fiub":
        raise ArgumentTypeError(f"scores are of type {scores.dtype}, expected numbers from 0 to 1")
    _check_size("scores", scores, picture)
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high <= 1):
        raise SettingError(f"scores go from {low:g} to {high:g}, expected 0 to 1; rescale them, e.g. by a softmax")
    scale = _legend.display_scale(picture.size)
    image, scores, colours = _enlarged(picture, scale), _repeated(scores, scale), _magma()
    result = Image.new("RGB", image.size)
    for rows in _stripes(*scores.shape):
        levels = (scores[rows] * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        grey = _rows_of(image, rows).convert("L").convert("RGB")
        result.paste(Image.blend(grey, _looked_up(colours, levels), 0.64), (0, rows.start))
    return _with_bar(result, label, colours)


def palette_png(label_map: np.ndarray, count: int) -> Image.Image:
    """A label map as a picture that keeps the numbers: saved as PNG, it reads back to exactly the same indices.

    Up to 255 classes: mode P, the way of VOC, each index shown in its `palette` colour, 255 for no label. More: mode
    I;16 (16-bit grey), 65535 for no label.

    Args:
        label_map: (H, W) integers from -1 (no label) to count - 1.
        count: the number of classes, up to 65535; it decides the mode, whatever classes occur.

    Returns:
        Mode P or I;16, as large as the label map.

    Raises:
        TypeError: the label map is not of integers.
        ValueError: too many classes, or a value outside -1 to count - 1.

    >>> np.asarray(palette_png(np.array([[0, 1, -1]]), 2)).tolist()
    [[0, 1, 255]]
    """
    if not 0 <= count <= 65535:
        raise SettingError(f"{count} classes don't fit a palette PNG; expected 0 to 65535")
    label_map = _checked_map(label_map, count)
    if count > 255:
        return Image.fromarray(label_map.astype(np.uint16))  # -1 wraps round to 65535
    image = Image.fromarray(label_map.astype(np.uint8))  # -1 wraps round to 255
    colours = np.zeros((256, 3), np.uint8)
    colours[:count] = palette(count)
    colours[255] = UNLABELLED
    image.putpalette(colours.tobytes())
    return image


# ---- pixels --------------------------------------------------------------------------------------------------------


def _blended(picture: Image.Image, label_map: np.ndarray, colours: np.ndarray, opacity: float) -> Image.Image:
    """Colour over picture by `opacity`, the full colour within a line's width of another region."""
    line = max(1, round(math.sqrt(label_map.size) / 700))  # on each side of a border
    index = np.dtype(np.uint16 if len(colours) < 65535 else np.int32)
    table = np.concatenate([[UNLABELLED], colours]).astype(np.uint8)
    result = Image.new("RGB", picture.size)
    for rows in _stripes(*label_map.shape):
        above = min(rows.start, line)
        own = label_map[rows.start - above : rows.stop + line].astype(index)
        own += 1  # 0 is no label
        inner = slice(above, above + rows.stop - rows.start)
        edge, own = _edges(own, line)[inner], own[inner]
        strength = np.where(edge, np.uint8(255), np.uint8(round(255 * opacity)))
        base = _rows_of(picture, rows)
        empty = own == 0
        if empty.any():
            strength[empty] = 0
            greyed = Image.blend(base, base.convert("L").convert("RGB"), opacity)
            base = Image.composite(greyed, base, Image.fromarray(empty))
        result.paste(Image.composite(_looked_up(table, own), base, Image.fromarray(strength)), (0, rows.start))
    return result


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
    return image.crop((0, rows.start, image.width, rows.stop))


def _enlarged(picture: Image.Image, scale: int) -> Image.Image:
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    size = picture.width * scale, picture.height * scale
    return picture if scale == 1 else picture.resize(size, Image.Resampling.NEAREST)


def _repeated(values: np.ndarray, scale: int) -> np.ndarray:
    return values if scale == 1 else values.repeat(scale, 0).repeat(scale, 1)


# ---- colours and words ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _chosen_colours() -> np.ndarray:
    lines = (Path(__file__).with_name("assets") / "palette.txt").read_text(encoding="ascii").splitlines()
    codes = " ".join(line for line in lines if not line.startswith("#"))
    return np.frombuffer(bytes.fromhex(codes), np.uint8).reshape(-1, 3)


@functools.lru_cache(maxsize=1)
def _magma() -> np.ndarray:
    """(256, 3) uint8, from dark to bright."""
    knots = np.frombuffer(bytes.fromhex(MAGMA), np.uint8).reshape(-1, 3)
    at = np.round(np.linspace(0, 255, len(knots)))
    return np.stack([np.interp(np.arange(256), at, knots[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.0005 else "<0.1%"


def _with_bar(image: Image.Image, label: str, colours: np.ndarray) -> Image.Image:
    """Adds the label and the colour bar from 0 to 1 below a picture."""
    size = _legend.font_size(*image.size)
    gap, line, width = round(0.6 * size), fonts.line_height(size), max(image.width, 14 * size)
    lines = fonts.wrap_text(label, size, width - 2 * gap, lines=3)
    top = image.height + gap // 2
    canvas = Image.new("RGB", (width, top + (len(lines) + 1) * line + gap), BACKGROUND)
    canvas.paste(image)
    for n, text in enumerate(lines):
        fonts.draw_text(canvas, (gap, top + n * line + fonts.ascent(size)), text, size, INK)
    baseline = top + len(lines) * line + fonts.ascent(size)
    left = 2 * gap + fonts.draw_text(canvas, (gap, baseline), "0", size, INK)
    right = width - 2 * gap - fonts.text_width("1", size)
    fonts.draw_text(canvas, (right + gap, baseline), "1", size, INK)
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
