"""The mark that every picture of a result carries, so that none is taken for a picture to segment."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from ..errors import SettingError

MARK = "sclip_plugin result"

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff"}
_HEAD, _TAIL = 1024, 4096
_NAME_BYTES = 60


def marked(format: str) -> dict[str, Any]:
    """What Pillow's ``save`` is given to put the mark into a picture of a format; nothing where it has no room for one.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from sclip_plugin.imaging.marks import marked
        >>> file = io.BytesIO()
        >>> Image.new("L", (2, 2)).save(file, "JPEG", **marked("JPEG"))
        >>> Image.open(file).info["comment"]
        b'sclip_plugin result'
    """
    if format == "PNG":
        info = PngInfo()
        info.add_text("Software", MARK)
        return {"pnginfo": info}
    others: dict[str, dict[str, Any]] = {
        "JPEG": {"comment": MARK},
        "WEBP": {"xmp": MARK.encode()},
        "TIFF": {"software": MARK},
    }
    return others.get(format, {})


def save_options(format: str, size: tuple[int, int]) -> dict[str, Any]:
    """What Pillow's ``save`` is given for a result's picture: the mark, and a quality at which captions stay sharp.

    Raises:
        SettingError: a picture too large for the format.
    """
    largest = {"JPEG": 65500, "WEBP": 16383}.get(format)
    if largest is not None and max(size) > largest:
        raise SettingError(
            f"the picture is {size[0]} x {size[1]}; {format} holds at most {largest} pixels a side, so write PNG."
        )
    quality: dict[str, Any] = {"JPEG": {"quality": 90, "subsampling": 0}, "WEBP": {"quality": 90}}.get(format, {})
    return {**marked(format), **quality}


def is_marked(path: Path) -> bool:
    """Whether a picture file carries the mark: near its start, or in WebP and TIFF near its end."""
    try:
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            return MARK.encode() in head or MARK.encode() in file.read()
    except (OSError, ValueError):
        return False


def check_replaceable(path: Path) -> None:
    """Refuse to replace a picture that is not a result of ours.

    Raises:
        SettingError: a file is there, without the mark.
    """
    if path.exists() and not is_marked(path):
        raise SettingError(
            f"{path} is there, and is no result of sclip, so it is not replaced; move it away, or give another --out."
        )


def readable(label: str) -> str:
    """As much of a label as the name of a file can hold, on any system.

    >>> readable("a/b: c")
    'a_b_ c'
    """
    kept = (c if c.isalnum() or c in "-_ " or unicodedata.category(c).startswith("M") else "_" for c in label)
    name = unicodedata.normalize("NFC", "".join(kept))
    return name.encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").strip()
