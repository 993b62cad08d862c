"""Which fonts there are, and which characters each of them has.

Pillow draws an empty box for a character that a font lacks and doesn't say so. What it draws for a code that no font
may have is that box; so a character is missing where it comes out the same.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from PIL import ImageFont

__all__ = ["SHIPPED", "has_character", "machine_fonts", "opened"]

FONT_FOLDERS = {
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
    "win32": ["%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"],
}.get(sys.platform, ["/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"])
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
UNFIT = """bold italic oblique black heavy light thin medium mono serif condensed math display nastaliq rashi upright
unifont""".split()  # words in file names of fonts that are a worse choice for a caption
BITMAP_SIZES = (109, 136, 160, 128, 96, 72, 64, 48, 40, 32, 20)  # strikes of the colour emoji fonts in use
NO_CHARACTER = "\U0010ffff"
TRIED_AT = 20  # pixels

SHIPPED = str(Path(__file__).with_name("assets") / "DejaVuSans.ttf")


@functools.lru_cache(maxsize=1)
def machine_fonts() -> tuple[str, ...]:
    """Every font file here, those that suit a caption first: of ``SCLIP_FONTS``, of installed packages whose name says
    that they hold fonts, of the machine's folders."""
    own = [Path(p) for p in os.environ.get("SCLIP_FONTS", "").split(os.pathsep) if p]
    packages = [d for d in distributions() if "font" in (d.metadata["Name"] or "").lower()]
    installed = [Path(str(d.locate_file(f))) for d in packages for f in d.files or () if f.suffix.lower() in SUFFIXES]
    system = [Path(os.path.expandvars(p)).expanduser() for p in FONT_FOLDERS]
    groups = (own, installed, system)
    return tuple(dict.fromkeys(str(p) for group in groups for p in sorted(set(_font_files(group)), key=_unfit)))


def _font_files(places: list[Path]) -> Iterator[Path]:
    for place in places:
        found = [Path(folder, f) for folder, _, files in os.walk(place) for f in files] if place.is_dir() else [place]
        yield from (p for p in found if p.suffix.lower() in SUFFIXES)


def _unfit(path: Path) -> tuple[int, str]:
    name = path.stem.lower()
    return 2 * sum(word in name for word in UNFIT) + 9 * ("lastresort" in name) - ("sans" in name), str(path)


@functools.lru_cache(maxsize=256)
def opened(path: str, size: int, shaped: bool = True) -> tuple[ImageFont.FreeTypeFont, float]:
    """The font at a size, and by what its drawing must be scaled (fonts made of bitmaps have only certain sizes).

    ``shaped`` lets Pillow order and join letters, where it can.

    Raises:
        OSError: no font, or none that can be drawn.
    """
    engine = None if shaped else ImageFont.Layout.BASIC
    for tried in (size, *BITMAP_SIZES):
        try:
            font = ImageFont.truetype(path, tried, layout_engine=engine)
        except OSError:
            continue
        try:  # variable fonts start at their first weight, which may be hairline
            axes = font.get_variation_axes()
            regular = [400.0 if axis["name"] in (b"Weight", "Weight") else float(axis["default"] or 0) for axis in axes]
            font.set_variation_by_axes(regular)
        except (OSError, NotImplementedError):
            pass
        return font, 1.0 if tried == size else size / tried
    raise OSError(f"the font {path!r} can't be drawn at {size} px; remove it or set SCLIP_FONTS to another folder")


@functools.lru_cache(maxsize=65536)
def has_character(path: str, c: str) -> bool:
    """Whether a font draws a character as something else than the box for what it lacks."""
    box = _drawn(path, NO_CHARACTER)
    return box is not None and _drawn(path, c) != box


def _drawn(path: str, c: str) -> tuple[tuple[int, int], bytes] | None:
    """The pixels of a character by itself; None of what is no font."""
    try:
        font, _ = opened(path, TRIED_AT, shaped=False)
        mask = font.getmask(c)
        return mask.size, bytes(mask)
    except (OSError, ValueError):
        return None
