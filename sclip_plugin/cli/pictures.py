"""Which pictures were named on the command line, and what their results are called."""

from __future__ import annotations

import glob
from collections import Counter
from pathlib import Path

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2"}


def find_pictures(arguments: list[str]) -> list[tuple[Path, Path]]:
    """Each picture with its name relative to the folder that was named, or its own name."""
    from ..errors import PictureError

    found: list[tuple[Path, Path]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
            found += [(p, p.relative_to(path)) for p in inside]
        elif not path.exists() and glob.has_magic(argument):
            matches = sorted(Path(p) for p in glob.glob(argument, recursive=True))
            found += [(p, Path(p.name)) for p in matches if p.is_file()]
        else:
            found.append((path, Path(path.name)))  # a file that is missing is reported with the others
    if not found:
        raise PictureError(
            f"no pictures in {', '.join(arguments)}; expected files, folders with pictures, or patterns."
        )
    return list(dict.fromkeys(found))


def with_stems(pictures: list[tuple[Path, Path]]) -> list[tuple[Path, str]]:
    """Names for the results: the picture's without its suffix, with it where two would be the same."""
    stems = Counter(str(relative.with_suffix("")) for _, relative in pictures)
    used: Counter[str] = Counter()
    named = []
    for path, relative in pictures:
        stem = str(relative.with_suffix(""))
        stem = stem if stems[stem] == 1 else str(relative)
        used[stem] += 1
        named.append((path, stem if used[stem] == 1 else f"{stem}.{used[stem]}"))
    return named
