"""What runs in a Ray actor: one model, and blocks of pictures that become parts of a Parquet file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...files import atomic_path
from .attempts import Attempts
from .plan import Entry, attempts_path, part_path
from .rows import ANSWER, Rows, Saving, Work, failed
from .sources import Item, data_in, items_of

RESULTS = pa.schema([("source", pa.string()), ("key", pa.string()), *ANSWER])
"""A row a picture: its file, which picture of a shard, and what `ANSWER` says."""

_AT_ONCE = 16


class Worker:
    """One model in one process; Ray Data makes an actor of it."""

    def __init__(self, work: Work, folder: Path, saving: Saving | None) -> None:
        self.folder = folder
        self.rows = Rows(work, saving)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks, by number and entries, to how many pictures each had, how many failed, and seconds."""
        pairs = zip(batch["block"], batch["entries"], strict=True)
        done = [self.block(int(number), [Entry(*entry) for entry in json.loads(entries)]) for number, entries in pairs]
        return {name: np.array([row[name] for row in done]) for name in ("block", "pictures", "failed", "seconds")}

    def block(self, number: int, block: Sequence[Entry]) -> dict[str, Any]:
        """Segment a block and write its part, unless an earlier attempt has."""
        start = time.perf_counter()
        path = part_path(self.folder, number)
        if not path.exists():
            with (
                Attempts(attempts_path(self.folder, number)) as attempts,
                atomic_path(path) as lent,
                pq.ParquetWriter(lent, RESULTS, compression="zstd") as writer,
            ):
                for rows in self._rows(block, attempts):
                    writer.write_table(pa.Table.from_pylist(rows, RESULTS))
        with pq.ParquetFile(path) as file:
            errors = file.read(columns=["error"]).column(0)
        return {
            "block": number,
            "pictures": len(errors),
            "failed": len(errors) - errors.null_count,
            "seconds": time.perf_counter() - start,
        }

    def _rows(self, block: Sequence[Entry], attempts: Attempts) -> Iterator[list[dict[str, Any]]]:
        """Rows of a block, some pictures at a time; a shard that ends in the middle gives a row that says so."""
        items = items_of(block)
        number = 0
        at_once = 1 if attempts.careful else _AT_ONCE
        while True:
            taken: list[Item] = []
            broken: Exception | None = None
            try:
                while len(taken) < at_once and (item := next(items, None)) is not None:
                    taken.append(item)
            except Exception as error:  # whatever readers of tars and tables make of a broken file
                broken = error
            if taken:
                if attempts.blames(number):
                    rows = [failed(attempts.error)]
                else:
                    with attempts.at(number):
                        rows = self.rows(taken)
                yield [_of(item) | row for item, row in zip(taken, rows, strict=True)]
            if broken is not None:
                yield [_of(Item(block[-1].path, None, "", None)) | failed(broken)]
                return
            if len(taken) < at_once:
                return
            number += 1


class TableWorker:
    """As `Worker`, for the tables of a dataset."""

    def __init__(self, work: Work, column: str) -> None:
        self.column = column
        self.rows = Rows(work)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The pictures' column goes, what `ANSWER` has comes."""
        cells = table.column(self.column).to_pylist()
        paths = table.column("path").to_pylist() if "path" in table.column_names else [""] * len(cells)
        rows = self.rows([Item(str(path), "", "", data_in(cell)) for path, cell in zip(paths, cells, strict=True)])
        answers = pa.Table.from_pylist(rows, ANSWER)
        table = table.drop_columns([name for name in table.column_names if name in (self.column, *ANSWER.names)])
        for name in ANSWER.names:
            table = table.append_column(ANSWER.field(name), answers.column(name))
        return table


def _of(item: Item) -> dict[str, Any]:
    return {"source": item.source, "key": item.key}
