"""What a format is: results are added to it, one picture at a time, and it is whole when it is closed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import ClassVar

from ..errors import SettingError
from .instances import Instances, find_instances
from .result import Regions, Result

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_text(name: str) -> str:
    """A name as UTF-8 and XML can hold it: bytes of a file name that are no text, and control characters, are written
    out.

    >>> print(as_text("caf\\udce9 and \\x1b.png"))
    caf\\xe9 and \\x1b.png
    """
    return _NOT_IN_XML.sub(lambda found: _written_out(ord(found[0])), name)


def _written_out(code: int) -> str:
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python holds a byte that is no text
    return f"\\x{byte:02x}" if byte < 256 else f"\\u{byte:04x}"


@dataclass(frozen=True)
class Item:
    """A result as it is added.

    Fields:
        result: of one picture.
        name: what its files are called, without a suffix; may lie in a folder, ``"day1/photo"``.
        source: the picture's own path or URL; None where it has none.
    """

    result: Result
    name: str
    source: str | None = None

    @property
    def file(self) -> str:
        """What a file that lists pictures calls this one: the last part of its source, in its name's folder."""
        source = (self.source or "").replace("\\", "/")
        return str(
            PurePosixPath(self.name).with_name(PurePosixPath(source).name or f"{self.name.rpartition('/')[2]}.png")
        )


class Format(ABC):
    """A way to write results. ``with open_export(...) as out: out.add(result, name)``.

    A subclass says what it is for in ``help``, whether one file holds all pictures in ``common``, and which pixels
    count as one thing unless the caller says it in ``regions``.

    Args:
        folder: where its files go.
        labels: of all results that will be added.
        file: the name of its file, in place of its own.
        regions: ``"components"`` or ``"classes"``; None for what suits the format.
        min_area: connected regions, or classes, of fewer pixels are left out.
        tolerance: about how far in pixels polygons may stray from the regions' borders, 0 for exact ones with many
            points; None for what suits the format.
    """

    name: ClassVar[str] = ""
    help: ClassVar[str] = ""
    common: ClassVar[str | None] = None  # the file that holds all pictures; None where each has files of its own
    needs_picture: ClassVar[bool] = False
    suffix: ClassVar[str] = ""  # of the one file that it writes, or writes for each picture
    regions: Regions = "components"
    tolerance: float = 0.75

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        *,
        file: str | None = None,
        regions: Regions | None = None,
        min_area: int = 0,
        tolerance: float | None = None,
    ) -> None:
        if regions not in (None, "components", "classes"):
            raise SettingError(f"regions={regions!r}; expected 'components' or 'classes'.")
        if not min_area >= 0 or not (tolerance is None or tolerance >= 0):
            raise SettingError(f"min_area={min_area!r}, tolerance={tolerance!r}; expected pixels, 0 or more.")
        self.folder = folder
        self.labels = tuple(labels)
        self.file = file or self.common
        self.regions = regions or type(self).regions
        self.min_area = min_area
        self.tolerance = type(self).tolerance if tolerance is None else tolerance
        self.written: list[Path] = []

    def add(self, result: Result, name: str = "picture", source: str | None = None) -> list[Path]:
        """Add a picture's result.

        Args:
            result: of `Segmenter`, or any `Segmentation`, with the labels that the format was opened with.
            name: what its files are called, without a suffix; unlike all others.
            source: the picture's path or URL, for formats that lead back to it.

        Returns:
            What was written for it now; a file that holds all pictures comes at the end.

        Raises:
            SettingError: other labels, or a result without what the format needs: its picture, its scores.
        """
        if tuple(result.labels) != self.labels:
            raise SettingError(
                f"{name} has the labels {list(result.labels)}; expected {list(self.labels)}, those of the export."
            )
        if self.needs_picture and result.picture is None:
            raise SettingError(f"{name} has no picture, which the format '{self.name}' needs; give Segmentation one.")
        paths = self.write(Item(result, name, source))
        self.written += paths
        return paths

    @abstractmethod
    def write(self, item: Item) -> list[Path]:
        """Write, or remember, one picture's result; returns what was written."""

    def finish(self) -> list[Path]:
        """Write what holds all pictures; returns what was written."""
        return []

    def close(self) -> list[Path]:
        """All files, the last of them written now."""
        self.written += self.finish()
        return self.written

    def instances(self, item: Item) -> Instances:
        """The things in a picture, as the caller wants them."""
        return find_instances(item.result, self.regions, self.min_area)

    def path(self, item: Item) -> Path:
        """The one file of a picture."""
        return self.folder / (self.file or f"{item.name}{self.suffix}")

    def __enter__(self) -> Format:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
