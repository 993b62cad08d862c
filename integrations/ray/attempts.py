"""What a block remembers of workers that died on it, so that a picture that ends its process can't stop a job for ever.

After two deaths a block is done one picture at a time; a picture on which two such attempts died is left out.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from ...errors import PictureError

_BEGIN, _DONE = "begin", "done"
_CAREFUL_FROM = 2
_BLAMED_FROM = 2


class Attempts:
    """The attempts at one block, in a file that is there only while there is one, or after one whose process died.

    Args:
        path: of that file.

    Attributes:
        careful: whether this attempt shall take one picture at a time.
        error: what is said of a picture that is left out.
    """

    error = PictureError(
        f"the worker's process died {_BLAMED_FROM} times on this picture alone (out of memory?); it was left out."
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").split() if path.exists() else []
        self.careful = lines.count(_BEGIN) >= _CAREFUL_FROM
        # A picture's number that no "done" follows: there an attempt ended.
        pairs = pairwise([*lines, _BEGIN])
        self._deaths = Counter(int(line) for line, following in pairs if line.isdecimal() and following == _BEGIN)

    def __enter__(self) -> Attempts:
        self._note(_BEGIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.path.unlink(missing_ok=True)

    def blames(self, number: int) -> bool:
        """Whether the picture of that number is to be left out."""
        return self._deaths[number] >= _BLAMED_FROM

    @contextlib.contextmanager
    def at(self, number: int) -> Iterator[None]:
        """While a picture is looked at, by its number in the block."""
        if self.careful:
            self._note(str(number))
        yield
        if self.careful:
            self._note(_DONE)

    def _note(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
