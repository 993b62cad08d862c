"""Text in any script on a picture: which font has the characters, how wide a text is, where its lines break.

The package ships one font (DejaVu Sans: Latin, Greek, Cyrillic, Hebrew, Arabic, symbols). A text that it doesn't cover
is drawn with a font of the machine that does; a character that no font covers is drawn as its Python escape
(`\\u732b`), so that nothing becomes a row of empty boxes. Arabic, Hindi and the like are shaped where Pillow has raqm.

The environment variable `SCLIP_FONTS` names folders or font files to look through before those of installed packages
and the machine's own.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings

import numpy as np
from PIL import Image, ImageDraw, features

from .fontfiles import SHIPPED, has_character, machine_fonts, opened

__all__ = ["ascent", "displayed", "draw_text", "line_height", "text_width", "wrap_text"]

Colour = tuple[int, int, int]

BREAKS = re.compile(r"\s|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|(?=\\[uU])")  # behind these, and before an escape
LONGEST = 400  # no line or pair of lines shows more characters; what is longer is not worth measuring


def line_height(size: int) -> int:
    """The distance of two base lines in pixels, for a font size in pixels.

    >>> line_height(20)
    27
    """
    return round(1.35 * size)


def ascent(size: int) -> int:
    """How far the base line lies below the top of a line of `line_height(size)` pixels.

    >>> ascent(20)
    20
    """
    return round(1.02 * size)


def displayed(text: str) -> str:
    """What is drawn for a text: white space as single blanks, and escapes for characters that no font here has.

    >>> displayed("traffic\\n light \\x07")
    'traffic light \\\\x07'
    """
    return "".join(part for part, _ in _runs(text))


@functools.lru_cache(maxsize=8192)
def text_width(text: str, size: int) -> int:
    """The width in pixels of a text on one line, rounded up; see `draw_text`.

    >>> text_width("cat", 20) < text_width("cat", 40)
    True
    """
    return int(
        np.ceil(sum(opened(path, size)[0].getlength(part) * opened(path, size)[1] for part, path in _runs(text)))
    )


def draw_text(image: Image.Image, xy: tuple[int, int], text: str, size: int, fill: Colour = (0, 0, 0)) -> int:
    """Draws a text on one line, every part of it with a font that has its characters.

    Args:
        image: an RGB picture; it is drawn on in place.
        xy: where the base line begins, in pixels.
        text: any text; white space of every kind counts as one blank.
        size: the font size in pixels.
        fill: the colour (emoji come in their own).

    Returns:
        The width in pixels, as `text_width` gives it.

    >>> picture = Image.new("RGB", (200, 30), "white")
    >>> draw_text(picture, (2, 22), "кошка / γάτα", 20) == text_width("кошка / γάτα", 20)
    True
    """
    x, y = float(xy[0]), xy[1]
    runs = _runs(text)
    if len(runs) > 1 and _direction(text) == "R":
        runs = runs[::-1]
    for part, path in runs:
        part = part[::-1] if not _shapes() and _direction(part) == "R" else part
        font, scale = opened(path, size)
        length = font.getlength(part)
        if scale == 1.0:
            ImageDraw.Draw(image).text((x, y), part, fill=fill, font=font, anchor="ls", embedded_color=True)
        else:
            up, down = font.getmetrics()
            tile = Image.new("RGBA", (max(1, int(np.ceil(length))), max(1, up + down)))
            ImageDraw.Draw(tile).text((0, up), part, fill=fill, font=font, anchor="ls", embedded_color=True)
            width, height = (max(1, round(side * scale)) for side in tile.size)
            tile = tile.resize((width, height), Image.Resampling.BOX)
            image.paste(tile, (round(x), round(y - up * scale)), tile)
        x += length * scale
    return text_width(text, size)


@functools.lru_cache(maxsize=2048)
def wrap_text(text: str, size: int, width: int, lines: int = 2) -> tuple[str, ...]:
    """Breaks a text into lines of at most `width` pixels; what doesn't fit ends in an ellipsis.

    Lines break at blanks, between Chinese and Japanese characters, and, where a word alone is too wide, inside it.

    >>> wrap_text("a rather long name of a class", 20, 170)
    ('a rather long', 'name of a class')
    >>> wrap_text("a rather long name of a class", 20, 150, lines=1)
    ('a rather long…',)
    """
    rest = " ".join(text.split())
    text = displayed(rest[:LONGEST])
    cut = len(rest) > LONGEST
    out: list[str] = []
    while text and len(out) < lines:
        if not cut and text_width(text, size) <= width:
            return (*out, text)
        last = len(out) == lines - 1
        end = _fitting(text, size, width, "…" if last else "")
        if last:
            return (*out, text[:end].rstrip() + "…")
        breaks = [m.end() for m in BREAKS.finditer(text, 0, end + 1)]
        end = max((b for b in breaks if 0 < b <= end or text[end : end + 1].isspace()), default=end)
        out.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return tuple(out) or ("",)


def _fitting(text: str, size: int, width: int, tail: str) -> int:
    """The longest prefix that fits with `tail`, at least one character, never cut inside what is drawn as one sign."""
    ends = [i for i in range(1, len(text) + 1) if i == len(text) or not _sticks(text[i - 1], text[i])]
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[: ends[middle]].rstrip() + tail, size) <= width:
            low = middle
        else:
            high = middle - 1
    return ends[low]


def _sticks(left: str, right: str) -> bool:
    return unicodedata.category(right)[0] == "M" or _is_invisible(right) or left == "\u200d"


# ---- which font draws which part -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _runs(text: str) -> tuple[tuple[str, str], ...]:
    """Cuts a text into parts of one font each: ASCII in the shipped font, the rest in one other if any covers it."""
    text = "".join(_shown(c) for c in " ".join(unicodedata.normalize("NFC", text).split()))
    if not _shapes():
        text = "".join(c for c in text if not _is_invisible(c))
    if not text:
        return ()
    visible = frozenset(c for c in text if not _is_invisible(c))
    if all(has_character(SHIPPED, c) for c in visible):
        return ((text, SHIPPED),)
    # Cutting a text that runs from right to left would put its parts in the wrong order.
    whole = _face_with(visible) if _direction(text) == "R" else None
    foreign = whole or _face_with(frozenset(c for c in visible if not c.isascii()))
    runs: list[tuple[str, str]] = []
    for c in text:
        last = runs[-1][1] if runs else SHIPPED
        part, face = c, last
        if c == " ":
            face = last if whole else SHIPPED  # blanks of fonts for emoji are wide
        elif whole or not c.isascii():
            stays = _is_invisible(c) or (foreign is None and has_character(last, c))
            found = last if stays else foreign or _face_with(frozenset(c))
            part, face = (c, found) if found else (_escape(c), SHIPPED)
        else:
            face = SHIPPED
        if runs and last == face:
            runs[-1] = (runs[-1][0] + part, face)
        else:
            runs.append((part, face))
    return tuple(runs)


@functools.cache
def _shapes() -> bool:
    """Whether Pillow orders and joins letters; without raqm it draws every character, in the order given."""
    return bool(features.check_feature("raqm"))


def _shown(c: str) -> str:
    return _escape(c) if unicodedata.category(c) in ("Cc", "Cs") else c


def _escape(c: str) -> str:
    return c.encode("ascii", "backslashreplace").decode() if ord(c) > 127 else f"\\x{ord(c):02x}"


def _is_invisible(c: str) -> bool:
    """Joiners, direction marks and variation selectors: they steer their neighbours and have no glyph of their own."""
    return unicodedata.category(c) == "Cf" or 0xFE00 <= ord(c) <= 0xFE0F or 0xE0100 <= ord(c) <= 0xE01EF


def _direction(text: str) -> str:
    """The direction of the first character that has one: "R" or "L"."""
    kinds = (unicodedata.bidirectional(c) for c in text)
    return next(("R" if kind in ("R", "AL") else "L" for kind in kinds if kind in ("R", "AL", "L")), "L")


@functools.lru_cache(maxsize=8192)
def _face_with(characters: frozenset[str]) -> str | None:
    for face in (SHIPPED, *_used):
        if all(has_character(face, c) for c in characters):
            return face
    for face in machine_fonts():
        if all(has_character(face, c) for c in characters):
            _used.append(face)
            return face
    if len(characters) == 1:
        _warn_once("".join(characters))
    return None


def _warn_once(character: str) -> None:
    if _missing:
        return
    _missing.append(character)
    warnings.warn(
        f"no font on this machine has {ascii(character)}; such characters are drawn as escapes. Noto's fonts have it: "
        f"pip install {'manimgx-fonts-cjk' if BREAKS.fullmatch(character) else 'manimgx-fonts'}; or name a folder or "
        "font file in the environment variable SCLIP_FONTS",
        stacklevel=2,
    )


_missing: list[str] = []
_used: list[str] = []  # fonts of the machine that were needed before: looking there first keeps one script in one font
