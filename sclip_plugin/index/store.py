"""What lies on disk: parts of Arrow rows, one a file that was looked at, of which the last of a path counts.

A part (``part-NNNNNN.arrow``, which pyarrow, pandas and polars read) is mapped, not read. A row says which file it is
of, by path, size, time and the hash of its content, and what that content was reduced to. A content that is there
already is not stored again: its row has no vectors, and the hash leads to them. A file that is gone leaves a row that
says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..files import atomic_path, locked_folder
from ..importing import needs
from ..parts import PartsFolder
from .regions import Reduced


@dataclass(frozen=True, eq=False)
class Row:
    """A file as it was found.

    Attributes:
        path: below the collection's folder, with ``/``.
        length, mtime: its size in bytes, and when it was changed, in nanoseconds.
        sha256: of its content, 32 bytes; None where it could not be read at all, or is gone.
        size: (height, width) of the picture, upright.
        error: why it is no picture; None where it is one.
        kept: what its content was reduced to; None where that is stored already.
        removed: the file is no longer there.
    """

    path: str
    length: int = 0
    mtime: int = 0
    sha256: bytes | None = None
    size: tuple[int, int] = (0, 0)
    error: str | None = None
    kept: Reduced | None = None
    removed: bool = False


class IndexStore(PartsFolder):
    """The parts of an index, and what they come to. Rows and regions are numbered through all parts.

    Args:
        folder: with an ``index.json``; see `create`.

    Attributes:
        rows: all of them, in order, each without its ``kept``.
        files: the number of the row that counts of each path that is there.
        contents: the number of the row that has the vectors of each content.

    Raises:
        FileFormatError: no such folder, no index, or a part that is none.
    """

    HEAD = "index.json"
    FORMAT = "sclip_plugin index 2"
    PARTS = "part-*.arrow"
    KIND = "index"
    COMMAND = "sclip index FOLDER --out INDEX"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.rows: list[Row] = []
        self.files: dict[str, int] = {}
        self.contents: dict[bytes, int] = {}
        self._batches: list[Any] = []
        self._vectors: list[tuple[np.ndarray, np.ndarray]] = []
        self._first_row, self._first_region = [0], [0]
        self._starts: list[np.ndarray] = [np.zeros(1, np.int64)]
        self.refresh()

    def __len__(self) -> int:
        """How many parts are open."""
        return len(self._batches)

    @property
    def width(self) -> int:
        """D of the vectors; 0 where there are none yet."""
        return max((vectors.shape[1] for vectors, _ in self._vectors), default=0)

    def refresh(self) -> None:
        """See what has been added since; nothing is opened twice."""
        for part in self.parts()[len(self._batches) :]:
            self._add(_opened(part))

    def _add(self, batch: Any) -> None:
        names = ("path", "bytes", "mtime", "sha256", "height", "width", "error", "removed")
        columns = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        stored = batch.column("vectors").is_valid().to_pylist()
        for there, (path, length, mtime, sha256, height, width, error, removed) in zip(stored, columns, strict=True):
            row = Row(os.fsdecode(path), length, mtime, sha256, (height, width), error, removed=removed)
            if removed:
                self.files.pop(row.path, None)
            else:
                self.files[row.path] = len(self.rows)
            if there:
                self.contents.setdefault(sha256, len(self.rows))
            self.rows.append(row)
        scales = batch.column("scales").flatten().to_numpy()
        values = batch.column("vectors").flatten().to_numpy()
        vectors = values.reshape(len(scales), len(values) // max(1, len(scales)))
        lengths = batch.column("scales").value_lengths().fill_null(0).to_numpy()
        self._starts.append(self._first_region[-1] + lengths.cumsum())
        self._batches.append(batch)
        self._vectors.append((vectors, scales))
        self._first_row.append(len(self.rows))
        self._first_region.append(self._first_region[-1] + len(scales))

    def is_done(self, path: str, length: int, mtime: int) -> bool:
        """Whether a file of that size and time has all that is needed of it here, an error included."""
        if path not in self.files:
            return False
        row = self.rows[self.files[path]]
        return (row.length, row.mtime) == (length, mtime) and (row.error is not None or row.sha256 in self.contents)

    def append(self, choose: Callable[[], Iterable[Row]]) -> int:
        """One more part, where there is anything to say.

        Args:
            choose: gives its rows once nobody else can add any, and all that others have added is seen.

        Returns:
            How many rows it has.
        """
        pa = needs("pyarrow", "index")
        with locked_folder(self.folder):
            self.refresh()
            rows = list(choose())
            if rows:
                batch = _batch(rows)
                with atomic_path(self.next_part()) as lent, pa.OSFile(str(lent), "wb") as file:
                    with pa.ipc.new_file(file, batch.schema) as writer:
                        writer.write_batch(batch)
                self.refresh()
        return len(rows)

    # ---- regions ---------------------------------------------------------------------------------------------------

    def regions(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, (n, D) int8, and scales, (n,) float32, of all regions of a part: mapped, not read."""
        return self._vectors[part]

    def starts(self) -> np.ndarray:
        """(rows + 1,): where each row's regions begin, and the last one's end."""
        if len(self._starts) > 1:
            self._starts = [np.concatenate(self._starts)]
        return self._starts[0]

    def region_vectors(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and scales of some regions, by rising numbers."""
        edges = np.searchsorted(numbers, self._first_region)
        found = [
            tuple(values[numbers[low:high] - first] for values in self._vectors[part])
            for part, (low, high, first) in enumerate(zip(edges, edges[1:], self._first_region, strict=False))
            if high > low
        ]
        vectors, scales = zip(*found, strict=True)
        return np.concatenate(vectors), np.concatenate(scales)

    def images(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image embeddings, (n, D) int8, and scales of rows that have vectors, by rising numbers."""
        edges = np.searchsorted(rows, self._first_row)
        vectors, scales = [], []
        for batch, low, high, first in zip(self._batches, edges, edges[1:], self._first_row, strict=False):
            if high > low:
                own = batch.select(["image", "image_scale"]).take(needs("pyarrow").array(rows[low:high] - first))
                scales.append(own.column("image_scale").to_numpy())
                vectors.append(own.column("image").flatten().to_numpy().reshape(high - low, -1))
        return np.concatenate(vectors), np.concatenate(scales)

    def map(self, row: int) -> np.ndarray:
        """(h, w) uint8: which of a row's regions each patch belongs to."""
        part = int(np.searchsorted(self._first_row, row, side="right")) - 1
        batch, place = self._batches[part], row - self._first_row[part]
        data = np.frombuffer(batch.column("map")[place].as_py(), np.uint8)
        return data.reshape(batch.column("map_height")[place].as_py(), -1)


def _opened(part: Path) -> Any:
    pa = needs("pyarrow", "index")
    try:
        with pa.ipc.open_file(pa.memory_map(str(part))) as file:
            return file.get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"{part} is no part of an index: {error}; build the index anew.") from error


def _batch(rows: Sequence[Row]) -> Any:
    pa = needs("pyarrow", "index")
    kept = [row.kept for row in rows]
    columns = {
        "path": pa.array([os.fsencode(row.path) for row in rows], pa.binary()),
        "bytes": pa.array([row.length for row in rows], pa.int64()),
        "mtime": pa.array([row.mtime for row in rows], pa.int64()),
        "sha256": pa.array([row.sha256 for row in rows], pa.binary()),
        "height": pa.array([row.size[0] for row in rows], pa.int32()),
        "width": pa.array([row.size[1] for row in rows], pa.int32()),
        "error": pa.array([row.error for row in rows], pa.string()),
        "removed": pa.array([row.removed for row in rows], pa.bool_()),
        "map": pa.array([each and each.map.tobytes() for each in kept], pa.binary()),
        "map_height": pa.array([each and len(each.map) for each in kept], pa.int32()),
        "vectors": pa.array([each and each.vectors.ravel() for each in kept], pa.list_(pa.int8())),
        "scales": pa.array([each and each.scales for each in kept], pa.list_(pa.float32())),
        "image": pa.array([each and each.image for each in kept], pa.list_(pa.int8())),
        "image_scale": pa.array([each and each.image_scale for each in kept], pa.float32()),
    }
    return pa.RecordBatch.from_pydict(columns)
