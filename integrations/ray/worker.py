"""What runs in a Ray actor: one model, and blocks of pictures that become parts of a Parquet file."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...storage.files import atomic_path
from .attempts import Attempts
from .plan import Entry, attempts_path, part_path
from .rows import ANSWER, Rows, Saving, Work, failed
from .sources import Item, data_in, items_of

RESULTS = pa.schema([("source", pa.string()), ("key", pa.string()), *ANSWER])
"""A row a picture: its file, which picture of a shard, and what `ANSWER` says."""

Kept = dict[tuple[str, str | None], dict[str, Any]]

_AT_ONCE = 16


class Worker:
    """One model in one process; Ray Data makes an actor of it.

    Args:
        work: what it does.
        folder: of the job.
        run: of the driver, see `Attempts`.
        saving: where files of each picture go, if anywhere.
    """

    def __init__(self, work: Work, folder: Path, run: str, saving: Saving | None) -> None:
        self.folder = folder
        self.run = run
        self.rows = Rows(work, saving)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks, by number and entries, to how many pictures each had, and how many failed."""
        pairs = zip(batch["block"], batch["entries"], strict=True)
        done = [self.block(int(number), [Entry(*entry) for entry in json.loads(entries)]) for number, entries in pairs]
        return {name: np.array([row[name] for row in done]) for name in ("block", "pictures", "failed")}

    def block(self, number: int, block: Sequence[Entry]) -> dict[str, Any]:
        """Segment a block and write its part; of a part that is there, only what failed."""
        path = part_path(self.folder, number)
        kept = {(row["source"], row["key"]): row for row in rows_of(path) if row["error"] is None}
        with (
            Attempts(attempts_path(self.folder, number), self.run) as attempts,
            atomic_path(path) as lent,
            pq.ParquetWriter(lent, RESULTS, compression="zstd") as writer,
        ):
            for rows in self._rows(block, attempts, kept):
                writer.write_table(pa.Table.from_pylist(rows, RESULTS))
        count, failures = counts_of(path)
        return {"block": number, "pictures": count, "failed": failures}

    def _rows(self, block: Sequence[Entry], attempts: Attempts, kept: Kept) -> Iterator[list[dict[str, Any]]]:
        """Rows of a block, some pictures at a time; a shard that ends in the middle gives a row that says so."""
        if attempts.hopeless:
            yield [_of_entry(entry) | failed(attempts.error) for entry in block]
            return
        items = items_of(block)
        at_once = 1 if attempts.careful else _AT_ONCE
        for number in itertools.count():
            taken: list[Item] = []
            broken: Exception | None = attempts.error if attempts.blames(f"read {number}") else None
            try:
                with attempts.at(f"read {number}"):
                    while broken is None and len(taken) < at_once and (item := next(items, None)) is not None:
                        taken.append(item)
            except Exception as error:  # whatever readers of tars and tables make of a broken file
                broken = error
            if taken:
                yield self._of_items(taken, attempts, f"look {number}", kept)
            if broken is not None:
                yield [_of_entry(block[-1]) | failed(broken)]
                return
            if len(taken) < at_once:
                return

    def _of_items(self, items: Sequence[Item], attempts: Attempts, what: str, kept: Kept) -> list[dict[str, Any]]:
        names = [_of(item) for item in items]
        known = [kept.get((name["source"], name["key"])) for name in names]
        new = [item for item, row in zip(items, known, strict=True) if row is None]
        if attempts.blames(what):
            made = [failed(attempts.error) for _ in new]
        else:
            with attempts.at(what):
                made = self.rows(new) if new else []
        left = iter(made)
        return [row or name | next(left) for name, row in zip(names, known, strict=True)]


def rows_of(part: Path) -> list[dict[str, Any]]:
    """The rows of a part; none where there is none yet."""
    if not part.exists():
        return []
    with pq.ParquetFile(part) as file:
        return file.read().to_pylist()


def counts_of(part: Path) -> tuple[int, int]:
    """How many rows a part has, and how many of them say an error; from its metadata alone."""
    about = pq.read_metadata(part)
    column = about.schema.names.index("error")
    nulls = sum(about.row_group(group).column(column).statistics.null_count for group in range(about.num_row_groups))
    return about.num_rows, about.num_rows - nulls


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
    return {"source": _text(item.source), "key": item.key and _text(item.key)}


def _of_entry(entry: Entry) -> dict[str, Any]:
    return {"source": _text(entry.path), "key": None}


def _text(name: str) -> str:
    """A name that is no UTF-8 with its odd bytes written out: Parquet's texts are UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
