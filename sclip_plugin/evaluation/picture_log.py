"""What is known of each picture already evaluated, kept in append-only files so that a killed run can go on.

One JSON object per line: first the settings of the run, then one line per picture with its integer counts. A line is
written in one piece once all of a picture's other files are there; a line that a kill cut off is dropped, and its
picture is done again. Every process has its own file; all files of the folder are read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SclipError
from .metric import Counts


class ResumeError(SclipError, ValueError):
    """The output folder holds partial results of a run with other settings."""


@dataclass(frozen=True)
class PictureRecord:
    """One evaluated picture.

    Fields:
        name: as in `Sample`.
        counts: (3, C) int64, as `count_picture` gives them.
    """

    name: str
    counts: Counts

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that this picture's target or label map shows; nan where nothing is labelled."""
        intersection, predicted, labelled = self.counts
        union = predicted + labelled - intersection
        return float((intersection[union > 0] / union[union > 0]).mean()) if union.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of its labelled pixels that have their class."""
        labelled = int(self.counts[2].sum())
        return int(self.counts[0].sum()) / labelled if labelled else float("nan")

    def to_line(self) -> str:
        """Its line in the log: only classes that occur."""
        classes = np.flatnonzero(self.counts.any(axis=0))
        counts = {str(index): self.counts[:, index].tolist() for index in classes.tolist()}
        return json.dumps({"name": self.name, "counts": counts}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: dict[str, Any], num_classes: int) -> PictureRecord:
        """The record of a line read back."""
        counts = np.zeros((3, num_classes), np.int64)
        for index, values in line["counts"].items():
            counts[:, int(index)] = values
        return cls(line["name"], counts)


class PictureLog:
    """The log of one process in an output folder.

    Args:
        folder: the output folder; made if missing.
        settings: all that the figures depend on, as plain values; a run goes on only with equal ones.
        num_classes: C.
        process: number of this process.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], num_classes: int, process: int = 0) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.num_classes = num_classes
        self.path = folder / f"pictures-{process}.jsonl"
        self._file: int | None = None

    def read(self) -> dict[str, PictureRecord]:
        """Records of all processes of earlier runs, by name.

        Raises:
            ResumeError: they were made with other settings; the message names the first that differs.
        """
        records: dict[str, PictureRecord] = {}
        for path in sorted(self.folder.glob("pictures-*.jsonl")):
            lines = [json.loads(line) for line in _whole_lines(path)]
            if not lines:
                continue
            self._check_settings(path, lines[0].get("settings"))
            for line in lines[1:]:
                if "name" in line:  # another header may follow where a run went on
                    records.setdefault(line["name"], PictureRecord.from_line(line, self.num_classes))
        return records

    def discard(self) -> None:
        """Forget the earlier runs."""
        for path in self.folder.glob("pictures-*.jsonl"):
            path.unlink()

    def open(self) -> None:
        """Start writing: drop a line that was cut off, and add the settings where the file is new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = sum(len(line) for line in _whole_lines(self.path)) if self.path.exists() else 0
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(self._file, whole)
        if not whole:
            self._write(json.dumps({"settings": self.settings}, ensure_ascii=False))

    def append(self, record: PictureRecord) -> None:
        """Add a picture; it counts as done once this returns."""
        self._write(record.to_line())

    def close(self) -> None:
        """Stop writing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: str) -> None:
        assert self._file is not None, "PictureLog.open comes first"
        left = memoryview(f"{line}\n".encode())
        while left:
            left = left[os.write(self._file, left) :]

    def _check_settings(self, path: Path, found: Any) -> None:
        if found == self.settings:
            return
        found = found if isinstance(found, dict) else {}
        for key in sorted({*found, *self.settings}, key=lambda key: (key == "identity", key)):
            if found.get(key) != self.settings.get(key):
                raise ResumeError(
                    f"'{path}' holds results of another run: {key} was {found.get(key)!r}, now it is "
                    f"{self.settings.get(key)!r}. Give another output folder, or --no-resume to start anew."
                )


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that end with a newline, up to the first that is not JSON."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = []
    for line in lines:
        if not line.endswith(b"\n"):
            break
        try:
            json.loads(line)
        except ValueError:
            break
        whole.append(line)
    return whole
