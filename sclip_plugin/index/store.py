"""What lies on disk: parts of Arrow rows, one a file that was looked at, of which the last of a path counts.

A part (``part-NNNNNN.arrow``, which pyarrow, pandas and polars read) is mapped, not read. A row says which file it is
of, by path, size, time and the hash of its content, and what that content was reduced to. A content that is there
already is not stored again: its row has no vectors, and the hash leads to them. A file that is gone leaves a row that
says so.

Nothing changed on disk changes an answer in silence. The columns that are read at once have a digest in the part's
head; what a content was reduced to has a checksum in its row, which is compared when it is used for the first time.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FileFormatError, SettingError
from ..importing import needs
from ..segment.segmenter import Segmenter
from ..storage.files import atomic_path, locked_folder
from ..storage.fingerprint import alike
from ..storage.parts import PartsFolder
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
        opened: each part that is open, by name, size and time.
        digests: of each, what its rows are.
        forgotten: how often all was read anew, since a part had been removed.

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
        self.forgotten = -1
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        self.forgotten += 1
        self.opened: list[tuple[str, int, int]] = []
        self.digests: list[bytes] = []
        self.rows: list[Row] = []
        self.files: dict[str, int] = {}
        self.contents: dict[bytes, int] = {}
        self._batches: list[Any] = []
        self._vectors: list[tuple[np.ndarray, np.ndarray]] = []
        self._first_row, self._first_region = [0], [0]
        self._starts: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._checked: list[np.ndarray] = []  # of each part which rows are as they were written

    def __len__(self) -> int:
        """How many parts are open."""
        return len(self._batches)

    @property
    def width(self) -> int:
        """D of the vectors; 0 where there are none yet."""
        return max((vectors.shape[1] for vectors, _ in self._vectors), default=0)

    def refresh(self) -> None:
        """See what has been added since; nothing is opened twice, unless a part was removed."""
        parts = self.parts()
        stamps = [(part.name, (seen := part.stat()).st_size, seen.st_mtime_ns) for part in parts]
        if stamps[: len(self.opened)] != self.opened:
            self._forget()
        for part, stamp in list(zip(parts, stamps, strict=True))[len(self.opened) :]:
            batch = self._read(part)
            self._add(batch)
            self.opened.append(stamp)
            self.digests.append(batch.schema.metadata[DIGEST])

    def _read(self, part: Path) -> Any:
        pa = needs("pyarrow", "index")
        try:
            with pa.ipc.open_file(pa.memory_map(str(part))) as file:
                batch = file.get_batch(0)
            batch.validate(full=True)
            if not batch.schema.equals(_schema()):
                raise ValueError("it has other columns")
            if (batch.schema.metadata or {}).get(DIGEST) != _digest(batch):
                raise ValueError("its checksum is another")
        except Exception as error:  # whatever a broken or foreign file makes of the reader
            raise self.spoilt(part, error) from error
        return batch

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
        self._checked.append(~np.array(stored, bool))
        self._first_row.append(len(self.rows))
        self._first_region.append(self._first_region[-1] + len(scales))

    def is_done(self, path: str, length: int, mtime: int) -> bool:
        """Whether a file of that size and time is here as the picture that it is.

        One that could not be read is not: it may be readable now, to another user, release or limit.
        """
        if path not in self.files:
            return False
        row = self.rows[self.files[path]]
        return (row.length, row.mtime) == (length, mtime) and row.error is None and row.sha256 in self.contents

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
        """Vectors, (n, D) int8, and scales, (n,) float32, of all regions of a part."""
        self._check(np.arange(self._first_row[part], self._first_row[part + 1]))
        return self._vectors[part]

    def starts(self) -> np.ndarray:
        """(rows + 1,): where each row's regions begin, and the last one's end."""
        if len(self._starts) > 1:
            self._starts = [np.concatenate(self._starts)]
        return self._starts[0]

    def region_vectors(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and scales of some regions, by rising numbers."""
        self._check(np.unique(np.searchsorted(self.starts(), numbers, side="right") - 1))
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
        self._check(rows)
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
        self._check(np.array([row]))
        part = int(np.searchsorted(self._first_row, row, side="right")) - 1
        batch, place = self._batches[part], row - self._first_row[part]
        data = np.frombuffer(batch.column("map")[place].as_py(), np.uint8)
        return data.reshape(batch.column("map_height")[place].as_py(), -1)

    def _check(self, rows: np.ndarray) -> None:
        """Compare the checksums of rows, by rising numbers, that were not compared before."""
        edges = np.searchsorted(rows, self._first_row)
        for part, (low, high, first) in enumerate(zip(edges, edges[1:], self._first_row, strict=False)):
            own = rows[low:high] - first
            own = own[~self._checked[part][own]]
            if not len(own):
                continue
            batch, (vectors, scales) = self._batches[part], self._vectors[part]
            starts = self.starts()[first : first + batch.num_rows + 1] - self._first_region[part]
            images = batch.column("image")
            stored = np.cumsum(images.is_valid().to_numpy(zero_copy_only=False)) - 1
            flat = images.flatten().to_numpy().reshape(-1, vectors.shape[1])
            for row in own.tolist():
                regions = slice(starts[row], starts[row + 1])
                scale = np.float32(batch.column("image_scale")[row].as_py())
                kept = batch.column("map")[row].as_buffer(), vectors[regions], scales[regions], flat[stored[row]], scale
                if _checksum(*kept) != batch.column("checksum")[row].as_py():
                    raise self.spoilt(self.folder / self.opened[part][0], f"row {row} has another checksum")
            self._checked[part][own] = True


def check_model(store: IndexStore, segmenter: Segmenter) -> None:
    """Refuse a segmenter whose model is not the one that made an index, or answers otherwise than it did then.

    Raises:
        SettingError: says which of the two.
    """
    said = store.made_by.get("named")
    said = said if isinstance(said, dict) else {}
    if store.made_by.get("model") != segmenter.model_identity():
        raise SettingError(
            f"the index {store.folder} was made with another model than this segmenter has (its weights, adapters or "
            f"activations differ); expected {said.get('model') or 'the same one'} in {said.get('dtype')}."
        )
    try:
        then = torch.tensor(store.made_by["answers"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{store.folder / store.HEAD} has no answers of a model; build the index anew."
        ) from error
    if not alike(torch.tensor(segmenter.answers()), then, getattr(torch, segmenter.dtype)):
        raise SettingError(
            f"the model answers otherwise than when the index {store.folder} was made, though its weights are the "
            "same: a hook or another forward was put on it, or taken off. Put it back, or build a new index."
        )


def _batch(rows: Sequence[Row]) -> Any:
    pa = needs("pyarrow", "index")
    kept = [row.kept for row in rows]
    columns: dict[str, list[Any]] = {
        "path": [os.fsencode(row.path) for row in rows],
        "bytes": [row.length for row in rows],
        "mtime": [row.mtime for row in rows],
        "sha256": [row.sha256 for row in rows],
        "height": [row.size[0] for row in rows],
        "width": [row.size[1] for row in rows],
        "error": [row.error and row.error.encode("utf-8", "backslashreplace").decode() for row in rows],
        "removed": [row.removed for row in rows],
        "map": [each and each.map.tobytes() for each in kept],
        "map_height": [each and len(each.map) for each in kept],
        "vectors": [each and each.vectors.ravel() for each in kept],
        "scales": [each and each.scales for each in kept],
        "image": [each and each.image for each in kept],
        "image_scale": [each and each.image_scale for each in kept],
        "checksum": [
            each and _checksum(each.map, each.vectors, each.scales, each.image, np.float32(each.image_scale))
            for each in kept
        ],
    }
    schema = _schema()
    batch = pa.RecordBatch.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    return batch.replace_schema_metadata({DIGEST: _digest(batch)})


DIGEST = b"sclip digest"


def _schema() -> Any:
    pa = needs("pyarrow", "index")
    return pa.schema(
        {
            "path": pa.binary(), "bytes": pa.int64(), "mtime": pa.int64(), "sha256": pa.binary(), "height": pa.int32(),
            "width": pa.int32(), "error": pa.string(), "removed": pa.bool_(), "map": pa.binary(),
            "map_height": pa.int32(), "vectors": pa.list_(pa.int8()), "scales": pa.list_(pa.float32()),
            "image": pa.list_(pa.int8()), "image_scale": pa.float32(), "checksum": pa.int64(),
        }
    )  # fmt: skip


def _digest(batch: Any) -> bytes:
    """Of all columns but those that a row's checksum is of, and of how long these are."""
    names = ("path", "bytes", "mtime", "sha256", "height", "width", "error", "removed", "map_height", "checksum")
    said = {name: batch.column(name).to_pylist() for name in names}
    lengths = {name: batch.column(name).value_lengths().to_pylist() for name in ("vectors", "scales", "image")}
    return hashlib.sha256(repr([said, lengths]).encode()).hexdigest().encode()


def _checksum(*parts: Any) -> int:
    """Of arrays, numbers and bytes, one after the other."""
    value = 0
    for part in parts:
        value = zlib.crc32(memoryview(part), value)
    return value
