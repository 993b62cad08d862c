"""What runs in a Ray actor: one model, and blocks of pictures that become parts of a Parquet file."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import SclipError
from ...files import atomic_path
from ...imaging.pictures import read_picture
from ...importing import needs
from ...segment.results import source_of
from ...segment.segmentation import Segmentation
from ...segment.segmenter import Segmenter
from ...settings import Settings
from .plan import Entry, part_path
from .sources import Item, items_of

SEGMENT = pa.struct(
    [("label", pa.string()), ("index", pa.int32()), ("area", pa.int64()), ("score", pa.float32()),
     ("counts", pa.string())]
)  # fmt: skip
RESULTS = pa.schema(
    [("source", pa.string()), ("key", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
     ("segments", pa.list_(SEGMENT)), ("error", pa.string())]
)  # fmt: skip
"""A row a picture. ``segments`` has the labels that occur: ``area`` in pixels, the mean ``score`` of those, and COCO's
compressed run lengths as ``counts``, for ``{"size": [height, width], "counts": counts}``."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Work:
    """What every worker of a job must know.

    Fields:
        model, preset, device, dtype: of `Segmenter.from_pretrained`.
        labels: as for a segmenter's call.
        settings: all of them.
        folder: of the job.
        files: whether overlays, label maps and JSON are written beside.
        identity: for those files.
    """

    model: str
    preset: str | None
    device: str
    dtype: str | None
    labels: Any
    settings: Settings
    folder: Path
    files: bool
    identity: dict[str, Any]


class Worker:
    """One model in one process; Ray Data makes an actor of it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.segmenter = Segmenter.from_pretrained(
            work.model, device=work.device, dtype=work.dtype, preset=work.preset, settings=work.settings
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks, by number and entries, to how many pictures each had, how many failed, and seconds."""
        pairs = zip(batch["block"], batch["entries"], strict=True)
        done = [self.block(int(number), [Entry(*entry) for entry in json.loads(entries)]) for number, entries in pairs]
        return {name: np.array([row[name] for row in done]) for name in ("block", "pictures", "failed", "seconds")}

    def block(self, number: int, block: Sequence[Entry]) -> dict[str, Any]:
        """Segment a block and write its part, unless an earlier attempt has."""
        start = time.perf_counter()
        path = part_path(self.work.folder, number)
        if not path.exists():
            with atomic_path(path) as lent, pq.ParquetWriter(lent, RESULTS, compression="zstd") as writer:
                for rows in self._rows(block):
                    writer.write_table(pa.Table.from_pylist(rows, RESULTS))
        with pq.ParquetFile(path) as file:
            errors = file.read(columns=["error"]).column(0)
        return {
            "block": number,
            "pictures": len(errors),
            "failed": len(errors) - errors.null_count,
            "seconds": time.perf_counter() - start,
        }

    def _rows(self, block: Sequence[Entry]) -> Iterator[list[dict[str, Any]]]:
        """Rows of a block, some pictures at a time; a shard that ends in the middle gives a row that says so."""
        items = items_of(block)
        while True:
            taken: list[Item] = []
            broken: Exception | None = None
            try:
                while len(taken) < _AT_ONCE and (item := next(items, None)) is not None:
                    taken.append(item)
            except Exception as error:  # whatever readers of tars and tables make of a broken file
                broken = error
            if taken:
                yield self._segmented(taken)
            if broken is not None:
                yield [failed(Item(block[-1].path, None, "", None), broken)]
                return
            if len(taken) < _AT_ONCE:
                return

    def _segmented(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """A row for each picture; their windows go through the tower together."""
        files: list[bytes | Exception] = []
        pictures: list[Any] = []
        for item in items:
            try:
                data = item.bytes()
                picture = read_picture(io.BytesIO(data))
                picture.filename = item.source  # type: ignore[attr-defined]  # by which a folder of masks finds its own
                files.append(data)
                pictures.append(picture)
            except Exception as error:  # a picture never ends the job
                files.append(error)
        results: list[Any]
        try:
            results = self.segmenter(pictures, self.work.labels, on_error="return")
        except Exception:  # one of them; which, and what of the others, is seen one by one
            results = [self._alone(picture) for picture in pictures]
        left = iter(results)
        return [
            failed(item, file) if isinstance(file, Exception) else self._row(item, file, next(left))
            for item, file in zip(items, files, strict=True)
        ]

    def _alone(self, picture: Any) -> Segmentation | Exception:
        try:
            return self.segmenter(picture, self.work.labels)
        except Exception as error:
            return error

    def _row(self, item: Item, file: bytes, result: Segmentation | Exception) -> dict[str, Any]:
        if isinstance(result, Exception):
            return failed(item, result)
        try:
            row = row_of(item, result)
            if self.work.files:
                result.settings = self.work.identity
                given = item.source if item.key is None else f"{item.source}#{item.key}"
                result.save(self.work.folder, item.stem, source=source_of(io.BytesIO(file), given))
            return row
        except SclipError as error:
            return failed(item, error)


def row_of(item: Item, result: Segmentation) -> dict[str, Any]:
    """A picture's row, as `RESULTS` has it."""
    coco = needs("pycocotools.mask", "ray")
    scores = result.mean_scores()
    segments = []
    for index in np.unique(result.label_map):
        if index < 0:
            continue
        mask = np.asfortranarray(result.label_map == index, dtype=np.uint8)
        label = result.labels[index]
        counts = coco.encode(mask)["counts"].decode()
        segments.append(
            {"label": label, "index": int(index), "area": int(mask.sum()), "score": scores.get(label), "counts": counts}
        )
    height, width = result.size
    return {**_of(item), "width": width, "height": height, "segments": segments, "error": None}


def failed(item: Item, error: Exception) -> dict[str, Any]:
    """The row of a picture that could not be segmented: what was wrong, in a sentence."""
    said = str(error) if isinstance(error, SclipError) else f"{type(error).__name__}: {error}"
    return {**_of(item), "width": None, "height": None, "segments": None, "error": said[:1000] or type(error).__name__}


def _of(item: Item) -> dict[str, Any]:
    return {"source": item.source, "key": item.key}
