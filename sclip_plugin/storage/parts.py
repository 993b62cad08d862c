"""A folder to which whole files are only ever added, beside one that says what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import FileFormatError, SettingError
from .files import locked_folder, write_atomically
from .reading import brief, load_json, read_text

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class PartsFolder:
    """Numbered parts that appear whole and stay as they are: a process that is killed leaves none that is half.

    A kind of folder says its ``HEAD``, the JSON that says what made it; its ``FORMAT``, which stands there; the names
    of its ``PARTS``, with ``*`` for the number; ``KIND``, what people call it; ``COMMAND``, what makes one.

    Args:
        folder: with such a head; see `create`.

    Raises:
        FileFormatError: no such folder, or one of another kind.
    """

    HEAD: ClassVar[str]
    FORMAT: ClassVar[str]
    PARTS: ClassVar[str]
    KIND: ClassVar[str]
    COMMAND: ClassVar[str]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.made_by: dict[str, Any] = load_json(read_text(self.folder / self.HEAD), self.HEAD)
            if not isinstance(self.made_by, dict):
                raise ValueError(f"{self.HEAD} holds {brief(self.made_by)}")
            if self.made_by.get("format") != self.FORMAT:
                raise ValueError(f"its format is {brief(self.made_by.get('format'))}; expected {self.FORMAT!r}")
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{self.folder} is no {self.KIND}, as '{self.COMMAND}' makes it: {error}") from error

    @classmethod
    def create(cls, folder: str | Path, made_by: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> Self:
        """A new folder, or one that is there and was made by the same.

        Args:
            folder: new or not.
            made_by: what has to be the same whenever something is added, as JSON holds it.
            notes: what a new one says beside.

        Raises:
            SettingError: what is there was made by something else.
        """
        path = Path(folder).expanduser() / cls.HEAD
        said = {"format": cls.FORMAT, **made_by}
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(path.parent):
            if not path.exists():
                write_atomically(path, json.dumps({**said, **(notes or {})}, indent=1).encode())
        store = cls(folder)
        differ = [key for key, value in json.loads(json.dumps(said)).items() if store.made_by.get(key) != value]
        if differ:
            raise SettingError(
                f"the {cls.KIND} {folder} was made with another {' and '.join(differ)}; give another folder, or what "
                "it was made with."
            )
        return store

    def said(self, key: str, kind: type[T]) -> T:
        """What the head says under a key.

        Raises:
            FileFormatError: nothing, or a value of another type.
        """
        value = self.made_by.get(key)
        if not isinstance(value, kind):
            raise FileFormatError(
                f"{self.folder / self.HEAD} was changed: {key!r} is {brief(value)}; expected a {kind.__name__}. Make "
                f"the {self.KIND} anew: '{self.COMMAND}'."
            )
        return value

    def parts(self) -> list[Path]:
        """Those that are there, in the order in which they came."""
        return sorted(self.folder.glob(self.PARTS))

    def next_part(self) -> Path:
        """The name of one more; to be written while the folder is locked.

        Its number follows the highest, also where some before it were removed.
        """
        before, after = self.PARTS.split("*")
        numbers = [part.name[len(before) : -len(after)] for part in self.parts()]
        highest = max((int(number) for number in numbers if number.isdecimal()), default=-1)
        return self.folder / f"{before}{highest + 1:06}{after}"

    def spoilt(self, part: Path, reason: object) -> FileFormatError:
        """The error for a part that can't be read, or is not what was written."""
        return FileFormatError(
            f"{part} is no part of the {self.KIND}, or was changed since it was written ({reason}). Remove it and run "
            f"'{self.COMMAND}' again: its pictures are looked at anew."
        )

    def identity(self) -> str:
        """A hash of what made it and of which parts it has."""
        names = [(part.name, part.stat().st_size) for part in self.parts()]
        return hashlib.sha256(json.dumps([self.made_by, names], sort_keys=True).encode()).hexdigest()
