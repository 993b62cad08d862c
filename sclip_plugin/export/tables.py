"""A table over all pictures: which label covers how much of which."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.files import write_atomically
from .base import Format, Item
from .registry import register_format

COLUMNS = ("picture", "width", "height", "label", "index", "pixels", "share", "score", "presence")


@register_format("csv")
class Table(Format):
    """A line for every label of every picture; what has no label has the index -1."""

    help = "a table over all pictures: pixels, share and mean score of every label"
    common = "labels.csv"
    suffix = ".csv"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.text = io.StringIO(newline="")
        self.rows = csv.writer(self.text)
        self.rows.writerow(COLUMNS)

    def write(self, item: Item) -> list[Path]:
        height, width = item.result.size
        rows = {row["index"]: row for row in item.result.rows()}
        counts = np.bincount(item.result.label_map.ravel().astype(np.int64) + 1, minlength=len(self.labels) + 1)
        picture = item.source or item.name
        if picture.startswith(("=", "+", "-", "@", "\t", "\r")):
            picture = f"./{picture}"  # the same path, which no spreadsheet takes for a formula
        for index, label in [*enumerate(self.labels), (-1, "")]:
            pixels = int(counts[index + 1])
            said = [rows.get(index, {}).get(key) for key in ("score", "presence")]
            numbers = [f"{pixels / (height * width):.6f}", *("" if n is None else f"{n:.4f}" for n in said)]
            self.rows.writerow([picture, width, height, label, index, pixels, *numbers])
        return []

    def finish(self) -> list[Path]:
        path = self.folder / str(self.file)
        write_atomically(path, self.text.getvalue().encode("utf-8", "backslashreplace"))
        return [path]
