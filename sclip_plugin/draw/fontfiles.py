"""Which fonts this machine has, and which characters each of them covers.

Pillow draws an empty box for a character that a font lacks and doesn't say so; so the `cmap` table is read here, with
nothing but numpy.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["SHIPPED", "Face", "Cmap", "face_count", "has_character", "is_coloured", "machine_faces"]

FONT_FOLDERS = {
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
    "win32": ["%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"],
}.get(sys.platform, ["/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"])
UNFIT = """bold italic oblique black heavy light thin medium mono serif condensed math display nastaliq rashi upright
unifont""".split()  # words in file names of fonts that are a worse choice for a caption


class Face(NamedTuple):
    """One font: a file, and its place in that file (collections hold several)."""

    path: str
    number: int = 0


SHIPPED = Face(str(Path(__file__).with_name("assets") / "DejaVuSans.ttf"))


@functools.lru_cache(maxsize=1)
def machine_faces() -> tuple[Face, ...]:
    """Every font of the machine, those that suit a caption first."""
    own = [Path(p) for p in os.environ.get("SCLIP_FONTS", "").split(os.pathsep) if p]
    system = [Path(os.path.expandvars(p)).expanduser() for p in FONT_FOLDERS]
    try:  # knows of folders that we don't
        listed = subprocess.run(["fc-list", "--format=%{file}\\n"], capture_output=True, timeout=10).stdout
        system += [Path(os.fsdecode(line)) for line in listed.splitlines()]
    except (OSError, subprocess.SubprocessError):
        pass
    files = [*sorted(set(_font_files(own)), key=_unfit), *sorted(set(_font_files(system)), key=_unfit)]
    return tuple(Face(str(p), i) for p in dict.fromkeys(files) for i in range(face_count(p)))


def _font_files(places: list[Path]) -> Iterator[Path]:
    for place in places:
        found = [Path(folder, f) for folder, _, files in os.walk(place) for f in files] if place.is_dir() else [place]
        yield from (p for p in found if p.suffix.lower() in (".ttf", ".otf", ".ttc", ".otc"))


def _unfit(path: Path) -> tuple[int, str]:
    name = path.stem.lower()
    return 2 * sum(word in name for word in UNFIT) + 9 * ("lastresort" in name) - ("sans" in name), str(path)


def has_character(face: Face, c: str) -> bool:
    cmap = _cmap(face)
    return cmap is not None and ord(c) in cmap


def is_coloured(face: Face) -> bool:
    return bool({b"CBDT", b"sbix", b"COLR"} & _tables(face).keys())


def face_count(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return 0
    return min(64, struct.unpack(">I", head[8:12])[0]) if head[:4] == b"ttcf" and len(head) == 12 else 1


@functools.cache
def _tables(face: Face) -> dict[bytes, tuple[int, int]]:
    """Where each table of the font lies in its file: offset and length. Empty for what is no OpenType font."""
    try:
        with open(face.path, "rb") as file:
            if file.read(4) == b"ttcf":
                file.seek(12 + 4 * face.number)
                file.seek(struct.unpack(">I", file.read(4))[0])
            else:
                file.seek(0)
            count = struct.unpack(">4xH6x", file.read(12))[0]
            return {tag: (at, length) for tag, _, at, length in struct.iter_unpack(">4sIII", file.read(16 * count))}
    except (OSError, struct.error):
        return {}


class Cmap:
    """The characters of a font, as its `cmap` table lists them (formats 4 and 12, those in use for Unicode)."""

    def __init__(self, table: bytes):
        count = struct.unpack(">2xH", table[:4])[0]
        listed = struct.iter_unpack(">HHI", table[4 : 4 + 8 * count])
        unicode = [table[at:] for platform, encoding, at in listed if (platform, encoding) in self.UNICODE]
        found = {struct.unpack_from(">H", part)[0]: part for part in unicode}
        self.words: np.ndarray | None = None
        if 12 in found:
            groups = np.frombuffer(found[12], ">u4", 3 * struct.unpack_from(">I", found[12], 12)[0], 16).reshape(-1, 3)
            self.start, self.end = groups[:, 0].astype(np.int64), groups[:, 1].astype(np.int64)
        elif 4 in found:
            n = struct.unpack_from(">H", found[4], 6)[0] // 2
            words = np.frombuffer(found[4], ">u2", len(found[4]) // 2).astype(np.int64)
            self.end, self.start = words[7 : 7 + n], words[8 + n : 8 + 2 * n]
            self.delta, self.words = words[8 + 2 * n : 8 + 3 * n], words[8 + 3 * n :]
        else:
            raise ValueError("no Unicode character table of format 4 or 12")

    UNICODE = {(3, 1), (3, 10), (0, 1), (0, 2), (0, 3), (0, 4), (0, 6)}

    def __contains__(self, code: int) -> bool:
        i = int(np.searchsorted(self.end, code))
        if i == len(self.end) or code < self.start[i]:
            return False
        if self.words is None:
            return True
        offset = int(self.words[i])
        if offset:
            at = i + offset // 2 + code - int(self.start[i])
            return at < len(self.words) and self.words[at] != 0
        return (code + int(self.delta[i])) % 0x10000 != 0


@functools.cache
def _cmap(face: Face) -> Cmap | None:
    at, length = _tables(face).get(b"cmap", (0, 0))
    try:
        with open(face.path, "rb") as file:
            file.seek(at)
            return Cmap(file.read(length))
    except (OSError, struct.error, ValueError, IndexError):
        return None
