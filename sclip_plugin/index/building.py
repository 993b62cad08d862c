"""An index brought up to date with its folder: what is new or changed is looked at, what is gone is noted."""

from __future__ import annotations

import hashlib
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PictureError
from ..imaging.finding import PICTURE_SUFFIXES, files_in, is_in
from ..imaging.opening import named_bytes, open_file
from ..segment.encoding import Prepared
from ..segment.results import is_result
from ..segment.segmenter import Segmenter
from ..settings import Settings
from .regions import reduced
from .store import IndexStore, Row

PICTURES_A_PART = 512
SECONDS_A_PART = 60.0
FILES_AT_ONCE = 4 * PICTURES_A_PART

Look = Callable[["list[File]", "IndexStore"], "Iterator[Row]"]
"""Rows of files, in any order."""


@dataclass(frozen=True)
class Progress:
    """How far a build is.

    Attributes:
        found: pictures in the folder.
        same: that are in the index as they are.
        done: that were looked at and are in the index now, of ``found - same``.
        failed: of those done, that could not be read.
        removed: that were in the index and are no longer in the folder.
    """

    found: int
    same: int
    done: int = 0
    failed: int = 0
    removed: int = 0


@dataclass(frozen=True)
class File:
    """A picture's file, by its path below the collection's folder."""

    path: str
    length: int
    mtime: int


def update(store: IndexStore, root: Path, look: Look, progress: Callable[[Progress], object]) -> Progress:
    """See `Index.build`; ``look`` makes the rows of what is new."""
    found = _found(root, store)
    if not found:
        raise PictureError(f"no pictures in {root}; expected a folder of them. The index is left as it is.")
    todo = [file for file in found if not store.is_done(file.path, file.length, file.mtime)]
    said = Progress(len(found), len(found) - len(todo))
    paths = {file.path for file in found}
    gone = [path for path in store.files if path not in paths]
    if gone:
        store.append(lambda: [Row(path, removed=True) for path in gone if path in store.files])
        said = replace(said, removed=len(gone))
    progress(said)
    waiting: list[Row] = []
    began = time.monotonic()

    def flush() -> None:
        nonlocal said, began
        store.append(lambda: _new(waiting, store))
        failed = sum(row.error is not None for row in waiting)
        said = replace(said, done=said.done + len(waiting), failed=said.failed + failed)
        waiting.clear()
        began = time.monotonic()
        progress(said)

    for row in look(todo, store):
        waiting.append(row)
        if len(waiting) >= PICTURES_A_PART or time.monotonic() - began > SECONDS_A_PART:
            flush()
    if waiting:
        flush()
    return said


def _new(rows: list[Row], store: IndexStore) -> Iterator[Row]:
    """What the store does not have: another process, or another worker, may have been here meanwhile."""
    kept: set[bytes | None] = set()
    for row in rows:
        if store.is_done(row.path, row.length, row.mtime) or _failed_before(row, store):
            continue
        if row.kept is not None and (row.sha256 in store.contents or row.sha256 in kept):
            row = replace(row, kept=None)
        elif row.kept is not None:
            kept.add(row.sha256)
        yield row


def _failed_before(row: Row, store: IndexStore) -> bool:
    if row.error is None or row.path not in store.files:
        return False
    before = store.rows[store.files[row.path]]
    return (before.length, before.mtime, before.error) == (row.length, row.mtime, row.error)


def _found(root: Path, store: IndexStore) -> list[File]:
    """The pictures of a folder, without results of this program."""
    found = []
    inside = is_in(store.folder, root)
    for file in files_in(root):
        if file.suffix.lower() not in PICTURE_SUFFIXES or (inside and is_in(file, store.folder)):
            continue
        try:
            status = file.stat()
        except OSError:  # gone since, or a link that leads nowhere
            continue
        path = file.relative_to(root).as_posix()
        if stat.S_ISREG(status.st_mode) and (path in store.files or not is_result(file)):
            found.append(File(path, status.st_size, status.st_mtime_ns))
    return found


def look_here(segmenter: Segmenter, root: Path, settings: Settings) -> Look:
    """Looking at files in this process."""

    def look(files: list[File], store: IndexStore) -> Iterator[Row]:
        def known(digest: bytes) -> tuple[int, int] | None:
            return store.rows[store.contents[digest]].size if digest in store.contents else None

        for start in range(0, len(files), FILES_AT_ONCE):
            # Another process may do some of them meanwhile.
            some = files[start : start + FILES_AT_ONCE]
            left = (file for file in some if not store.is_done(file.path, file.length, file.mtime))
            yield from looked_at(left, known, segmenter, root, settings)

    return look


def looked_at(
    files: Iterable[File],
    known: Callable[[bytes], tuple[int, int] | None],
    segmenter: Segmenter,
    root: Path,
    settings: Settings,
) -> Iterator[Row]:
    """A row for each file, in the order in which they are done; windows of several pictures share batches.

    Args:
        files: below ``root``.
        known: from the hash of a content to the picture's (height, width), where it need not be looked at.
        segmenter, settings: that look at them.
    """
    rows: deque[Row] = deque()  # of pictures that are in the tower
    ready: list[Row] = []  # that need no tower
    sizes: dict[bytes, tuple[int, int]] = {}  # of contents that are in the tower or were

    def read() -> Iterator[Prepared | PictureError]:
        for file in files:
            row = Row(file.path, file.length, file.mtime)
            try:
                with open_file(root / file.path) as opened:
                    data = opened.read()
            except (PictureError, OSError) as error:
                ready.append(replace(row, error=str(error)))
                continue
            digest = hashlib.sha256(data).digest()
            row = replace(row, sha256=digest)
            size = known(digest) or sizes.get(digest)
            if size is not None:
                ready.append(replace(row, size=size))
                continue
            try:
                prepared = segmenter.prepare(named_bytes(data, file.path), settings)
            except PictureError as error:
                ready.append(replace(row, error=str(error)))
                continue
            sizes[digest] = prepared.size
            rows.append(replace(row, size=prepared.size))
            yield prepared

    encoded: Iterator[Any] = segmenter.encode(read(), settings)  # type: ignore[arg-type]
    for each in encoded:
        yield replace(rows.popleft(), kept=reduced(each.features(), each.image))
        while ready:
            yield ready.pop()
    yield from ready
