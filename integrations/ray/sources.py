"""The pictures of a block, one after the other: of files, of a Parquet file's rows, of a tar's members."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...cli.pictures import PICTURE_SUFFIXES, NamedPicture, unused
from ...errors import FileFormatError
from .plan import Entry

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Item:
    """One picture of a block.

    Fields:
        source: the file, as in the results.
        key: which picture of a shard: a row's number, a member's name; None for a picture file.
        stem: what files about it are called.
        data: its bytes, of a shard, or its pixels; None for a picture file, and for an empty cell of a table.
    """

    source: str
    key: str | None
    stem: str
    data: bytes | np.ndarray | None

    def content(self) -> bytes | np.ndarray:
        """The picture's file, or its pixels.

        Raises:
            PictureError: it can't be read.
            FileFormatError: an empty cell.
        """
        if self.data is not None:
            return self.data
        if self.key is not None:
            raise FileFormatError("an empty cell; expected a picture's file or its pixels.")
        with NamedPicture.of(self.source).open() as file:
            return file.read()


def items_of(block: Sequence[Entry]) -> Iterator[Item]:
    """The pictures of a block, in order.

    Raises:
        FileFormatError: a Parquet file without one column of pictures' bytes.
        OSError, tarfile.TarError, pyarrow.ArrowException: a shard that can't be read.
    """
    for entry in block:
        if entry.group < 0:
            yield Item(entry.path, None, entry.stem, None)
        elif entry.path.lower().endswith(".tar"):
            yield from _members(entry)
        else:
            yield from _rows(entry)


def _members(shard: Entry) -> Iterator[Item]:
    used: set[str] = set()
    with tarfile.open(shard.path, "r:") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.suffix.lower() not in PICTURE_SUFFIXES or name.name.startswith("."):
                continue
            file = tar.extractfile(member)
            assert file is not None, "an ordinary file"
            parts = [part for part in name.with_suffix("").parts if part not in ("/", "..")]
            yield Item(shard.path, member.name, unused("/".join((shard.stem, *parts)), used), file.read())
        # Behind a header that is broken or missing tarfile sees the end, in silence.
        file_of_all: Any = tar.fileobj
        file_of_all.seek(tar.offset)
        if file_of_all.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise FileFormatError(f"{shard.path} is broken from byte {tar.offset} on; what comes there is not read.")


def _rows(shard: Entry) -> Iterator[Item]:
    with pq.ParquetFile(shard.path) as file:
        column = picture_column({field.name: field.type for field in file.schema_arrow}, shard.path)
        row = sum(file.metadata.row_group(index).num_rows for index in range(shard.group))
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[shard.group], columns=[column]):
            for value in batch.column(0 if batch.num_columns == 1 else column).to_pylist():
                yield Item(shard.path, str(row), f"{shard.stem}/{row}", data_in(value))
                row += 1


def data_in(cell: Any) -> bytes | np.ndarray | None:
    """What a cell of a column that `picture_column` found holds: a picture's file, or its pixels."""
    return cell.get("bytes") if isinstance(cell, dict) else cell


def picture_column(columns: Mapping[str, Any], where: str, given: str | None = None) -> str:
    """The column that holds pictures: as bytes, as Hugging Face's struct with a field ``bytes``, as Ray's tensors.

    Args:
        columns: name to Arrow type.
        where: what has them, for an error.
        given: its name; None where there is only one that can be it.

    Raises:
        FileFormatError: there is none, or several.
    """
    found = [name for name, kind in columns.items() if _holds_pictures(kind) and given in (None, name)]
    if len(found) != 1:
        raise FileFormatError(
            f"{where} has {len(found)} columns of pictures ({', '.join(found) or 'none'}) among {', '.join(columns)}"
            f"{f', for {given!r}' if given else ''}; expected one, with a picture's file or its pixels in each "
            "row: leave the others out."
        )
    return found[0]


def _holds_pictures(kind: Any) -> bool:
    if not isinstance(kind, pa.DataType):
        return False
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_pictures(field.type) for field in kind)
    return isinstance(kind, pa.BaseExtensionType) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
