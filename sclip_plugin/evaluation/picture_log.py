"""What is known of each picture already evaluated, kept in append-only files so that a killed run can go on.

One JSON object per line: first the settings of the run, then one line per picture with its integer counts. A line is
written in one piece once all of a picture's other files are there. Each ends in a checksum over itself and the
settings: a line that a kill cut off, that somebody changed, or that comes from another run counts for nothing, and its
picture is done again. Every process has its own file; all files of the folder are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SclipError
from .calibration import Calibration
from .metric import Counts


class ResumeError(SclipError, ValueError):
    """The output folder holds partial results of a run with other settings."""


@dataclass(frozen=True)
class PictureRecord:
    """One evaluated picture.

    Fields:
        name: as in `Sample`.
        counts: (3, C) int64, as `count_picture` gives them.
        source: hash of the picture and its mask; "" where the set can't tell.
        calibration: as `calibrations` gives it.
        seconds: how long the model took; of a batch, its share. 0: unknown.
        peak: bytes of memory that the run had taken at most, see `PeakMemory`. 0: unknown.
    """

    name: str
    counts: Counts
    source: str = ""
    calibration: dict[str, Calibration] = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0

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

    def to_dict(self) -> dict[str, Any]:
        """As plain values: only classes that occur."""
        classes = np.flatnonzero(self.counts.any(axis=0))
        counts = {str(index): self.counts[:, index].tolist() for index in classes.tolist()}
        tables = {kind: each.table.tolist() for kind, each in self.calibration.items()}
        cost = {"seconds": self.seconds, "peak": self.peak}
        return {"name": self.name, "source": self.source, "counts": counts, "calibration": tables, **cost}

    @classmethod
    def from_dict(cls, line: dict[str, Any], num_classes: int) -> PictureRecord:
        """The record of plain values read back."""
        counts = np.zeros((3, num_classes), np.int64)
        for index, values in line["counts"].items():
            counts[:, int(index)] = values
        tables = {kind: Calibration(np.array(table)) for kind, table in line["calibration"].items()}
        return cls(line["name"], counts, line["source"], tables, line["seconds"], line["peak"])


KEYS = {"name", "source", "counts", "calibration", "seconds", "peak", "check"}
"""Of a picture's line in a log."""


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
        self._run = json.dumps(self.settings, sort_keys=True)
        self._file: int | None = None

    def read(self) -> dict[str, PictureRecord]:
        """Records of all processes of earlier runs, by name. Lines that are not to be trusted are left out and counted
        in a warning.

        Raises:
            ResumeError: they were made with other settings; the message names the first that differs.
        """
        records: dict[str, PictureRecord] = {}
        for path in sorted(self.folder.glob("pictures-*.jsonl")):
            bad = 0
            for line in path.read_bytes().splitlines(keepends=True):
                content = _parsed(line)
                if "settings" in content and content.get("check") == _check(_without_check(content), ""):
                    self._check_settings(path, content["settings"])
                elif KEYS <= set(content) and content["check"] == _check(_without_check(content), self._run):
                    record = PictureRecord.from_dict(content, self.num_classes)
                    records[record.name] = record  # the last: it may have been done again
                else:
                    bad += line.endswith(b"\n")  # what a kill cut off is no news
            if bad:
                warnings.warn(
                    f"'{path}' has {bad} lines that are damaged or not of this run; their pictures are done again.",
                    stacklevel=2,
                )
        return records

    def discard(self) -> None:
        """Forget the earlier runs."""
        for path in self.folder.glob("pictures-*.jsonl"):
            path.unlink()

    def open(self) -> None:
        """Start writing: drop a line that was cut off, and add the settings where the file is new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = self.path.read_bytes() if self.path.exists() else b""
        whole = there.rfind(b"\n") + 1
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(self._file, whole)
        if not whole:
            self._write({"settings": self.settings}, "")

    def append(self, record: PictureRecord) -> None:
        """Add a picture; it counts as done once this returns."""
        self._write(record.to_dict(), self._run)

    def close(self) -> None:
        """Stop writing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, content: dict[str, Any], run: str) -> None:
        assert self._file is not None, "PictureLog.open comes first"
        line = json.dumps({**content, "check": _check(content, run)}, separators=(",", ":"))
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


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line) if line.endswith(b"\n") else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _without_check(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "check"}


def _check(content: dict[str, Any], run: str) -> str:
    """A checksum over a line's content and the run that it belongs to."""
    return hashlib.sha256(f"{json.dumps(content)}\n{run}".encode()).hexdigest()[:16]
