"""What a block remembers of workers that died on it, so that a picture that ends its process can't stop a job for ever.

After two deaths a block is done one picture at a time; a picture on which two such attempts died is left out. A block
on which workers die between pictures, or before the first, is given up. Deaths of an earlier run do not count: a job
that was stopped has killed its workers itself.
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
        run: which call of the driver's this is; what others left is forgotten.

    Attributes:
        careful: whether this attempt shall take one picture at a time.
        hopeless: whether the block is to be given up.
        error: what is said of what is left out.
    """

    error = PictureError(
        f"the worker's process died {_BLAMED_FROM} times on this alone (out of memory?); it was left out."
    )

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines[:1] != [f"run {run}"]:
            path.unlink(missing_ok=True)
            lines = []
        pairs = list(pairwise([*lines[1:], _BEGIN]))
        self.careful = lines.count(_BEGIN) >= _CAREFUL_FROM
        # What no "done" follows is where an attempt ended.
        self._deaths = Counter(line for line, following in pairs if following == _BEGIN)
        self.hopeless = self._deaths[_BEGIN] + self._deaths[_DONE] >= _CAREFUL_FROM + _BLAMED_FROM

    def __enter__(self) -> Attempts:
        if not self.path.exists():
            self._note(f"run {self.run}")
        self._note(_BEGIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.path.unlink(missing_ok=True)

    def blames(self, what: str) -> bool:
        """Whether something is to be left out."""
        return self._deaths[what] >= _BLAMED_FROM

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """While something is done, such as ``"look 3"``: at the block's fourth picture."""
        if self.careful:
            self._note(what)
        yield
        if self.careful:
            self._note(_DONE)

    def _note(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
