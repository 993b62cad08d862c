"""Which pictures were named on the command line, how they are read, and what their results are called."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Annotated
from urllib.parse import unquote, urlsplit

import typer

from ..errors import PictureError
from ..imaging.fetching import fetched, is_url
from ..imaging.finding import PICTURE_SUFFIXES, files_in, is_in

_STEM_BYTES = 170  # with what is appended to it a name stays within 255

MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Largest picture in pixels; default: Pillow's limit."),
]


@dataclass(frozen=True)
class NamedPicture:
    """A picture as it was named: a path or a URL, and where it lies below the folder that was named."""

    given: str
    relative: PurePosixPath

    @classmethod
    def of(cls, argument: str) -> NamedPicture:
        """One that an argument names by itself."""
        if not argument:
            raise PictureError("an empty name was given as a picture; expected a file, a folder, a pattern, or a URL.")
        return cls(argument, PurePosixPath(_name_of_url(argument) if is_url(argument) else Path(argument).name))

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes.

        Raises:
            PictureError: nothing there, no file, or nothing to be had from the URL.
        """
        from ..imaging.opening import open_file

        if is_url(self.given):
            yield io.BytesIO(fetched(self.given))
        else:
            with open_file(self.given) as file:
                yield file


@dataclass
class FoundPictures:
    """What a command's arguments name.

    Fields:
        pictures: all of them, each once.
        own: how many were left out because they are results of this program.
        others: how many files in folders were not looked at, by kind.
    """

    pictures: list[NamedPicture] = field(default_factory=list)
    own: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """What was left out, in words; empty where nothing was."""
        parts = [f"{self.own} results of earlier runs"] if self.own else []
        parts += [f"{count} {kind}" for kind, count in self.others.most_common(8)]
        rest = sum(count for _, count in self.others.most_common()[8:])
        return ", ".join(parts + ([f"{rest} of other kinds"] if rest else []))


def find_pictures(arguments: list[str], out: Path | None = None, shards: Sequence[str] = ()) -> FoundPictures:
    """The pictures that files, folders, patterns and URLs name; ``-`` reads names from standard input, one a line.

    Folders are searched through, but for hidden files and ``out``, the folder for the results; what ends in one of
    ``shards`` counts as a picture.

    Raises:
        PictureError: there are none.
    """
    from ..segment.results import is_result

    found = FoundPictures()
    named: dict[NamedPicture, None] = {}
    for argument in _with_standard_input(arguments):
        path = Path(argument)
        if is_url(argument):
            named[NamedPicture.of(argument)] = None
            continue
        if argument and _is_folder(path):
            inside_results = out is None or is_in(path, out)
            for file in files_in(path):
                if not inside_results and is_in(file, out):  # type: ignore[arg-type]
                    if file.suffix.lower() in PICTURE_SUFFIXES and not is_result(file):
                        found.others["in the folder for results"] += 1
                    continue
                suffix = file.suffix.lower()
                if suffix not in PICTURE_SUFFIXES and suffix not in shards:
                    if not (suffix == ".json" and is_result_json(file)):
                        found.others[suffix or "without a suffix"] += 1
                elif is_result(file):
                    found.own += 1
                else:
                    relative = file.relative_to(path).as_posix()
                    named[NamedPicture(str(file), PurePosixPath(relative))] = None
            continue
        if not os.path.lexists(argument) and glob.has_magic(argument):
            matches = [name for name in sorted(glob.glob(argument, recursive=True)) if os.path.isfile(name)]
        else:
            matches = [argument]  # a file that is missing is reported with the others
        for name in matches:
            if is_result(Path(name)):
                found.own += 1
            else:
                named[NamedPicture.of(name and str(Path(name)))] = None
    found.pictures = list(named)
    if not found.pictures:
        left_out = f" Not looked at: {found.left_out()}." if found.left_out() else ""
        raise PictureError(
            f"no pictures in {', '.join(arguments)}; expected files, folders with pictures, patterns, or URLs."
            + left_out
        )
    return found


def with_stems(pictures: list[NamedPicture]) -> list[tuple[NamedPicture, str]]:
    """Names for the results: the picture's without its suffix, with it where two would be the same.

    No two are the same on a file system that takes "A" for "a", and none is too long for a file name.
    """
    stems = Counter(folded(str(picture.relative.with_suffix(""))) for picture in pictures)
    used: set[str] = set()
    named = []
    for picture in pictures:
        stem = str(picture.relative.with_suffix(""))
        stem = _bounded(stem if stems[folded(stem)] == 1 else str(picture.relative))
        named.append((picture, unused(stem, used)))
    return named


def unused(stem: str, used: set[str]) -> str:
    """The stem, or with a number behind it where ``used`` has it, folded; it is added there."""
    candidate, count = stem, 1
    while folded(candidate) in used:
        count += 1
        candidate = f"{stem}.{count}"
    used.add(folded(candidate))
    return candidate


def limit_pixels(most: int | None) -> None:
    """Set the limit on pixels for this process, where one is given."""
    if most is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = most


def is_result_json(path: Path) -> bool:
    from ..segment.results import read_result

    return read_result(path) is not None


def _with_standard_input(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            data = sys.stdin.buffer.read()
            names = data.split(b"\0") if b"\0" in data else data.replace(b"\r\n", b"\n").split(b"\n")
            yield from (os.fsdecode(name) for name in names if name.strip())
        else:
            yield argument


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that cannot be; reading it will say so
        return False


def folded(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _bounded(stem: str) -> str:
    """A stem whose last part is no longer than a file name can be: cut, with a hash of what it was."""
    folder, slash, name = stem.rpartition("/")
    encoded = os.fsencode(name)
    if len(encoded) > _STEM_BYTES:
        name = f"{encoded[: _STEM_BYTES - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"
    return f"{folder}{slash}{name}"


def _name_of_url(url: str) -> str:
    """What a file from there would be called, on any system."""
    try:
        name = PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:
        name = ""
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name).lstrip(".")
    return name or "picture"
