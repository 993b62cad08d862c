"""The pictures of a block, one after the other: of files, of a Parquet file's rows, of a tar's members."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from ...cli.pictures import PICTURE_SUFFIXES, NamedPicture
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
        data: its bytes, of a shard; None for a picture file, and for an empty cell of a table.
    """

    source: str
    key: str | None
    stem: str
    data: bytes | None

    def bytes(self) -> bytes:
        """The picture's file.

        Raises:
            PictureError: it can't be read.
            FileFormatError: an empty cell.
        """
        if self.data is not None:
            return self.data
        if self.key is not None:
            raise FileFormatError(f"{self.source}, row {self.key}: empty; expected a picture's bytes.")
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
            yield from _members(entry.path)
        else:
            yield from _rows(entry.path, entry.group)


def _members(path: str) -> Iterator[Item]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.suffix.lower() not in PICTURE_SUFFIXES or name.name.startswith("."):
                continue
            file = tar.extractfile(member)
            assert file is not None, "an ordinary file"
            parts = [part for part in name.with_suffix("").parts if part not in ("/", "..")]
            yield Item(path, member.name, "/".join((Path(path).stem, *parts)), file.read())


def _rows(path: str, group: int) -> Iterator[Item]:
    with pq.ParquetFile(path) as file:
        column = picture_column(file.schema_arrow, path)
        row = sum(file.metadata.row_group(index).num_rows for index in range(group))
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
            for value in batch.column(0 if batch.num_columns == 1 else column).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Item(path, str(row), f"{Path(path).stem}/{row}", data)
                row += 1


def picture_column(schema: pa.Schema, name: str) -> str:
    """The one column that holds pictures as bytes, or as Hugging Face's struct with a field ``bytes``.

    Raises:
        FileFormatError: there is none, or several.
    """
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if len(found) != 1:
        raise FileFormatError(
            f"{name} has {len(found)} columns of bytes ({', '.join(found) or 'none'}) among {', '.join(schema.names)}; "
            "expected one, with a picture's file in each row."
        )
    return found[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
