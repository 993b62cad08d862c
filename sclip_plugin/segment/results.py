"""The files of a result on disk: what they are called, which belong together, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import FileFormatError, PictureError, SettingError
from ..imaging.marks import is_marked, readable
from ..imaging.opening import opened

PICTURE_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
"""What overlays and heat maps are written as, by suffix."""

PIXELS_AT_ONCE = 2**22
_DRAWN = rf"(\.overlay|\.heatmap\.\d+-[^.]*)\.({'|'.join(PICTURE_FORMATS)})"
_OWN_NAME = re.compile(rf"(?P<stem>.+)(\.labels\.png|{_DRAWN})", re.DOTALL)


def file_names(stem: str, labels: Sequence[str], heatmaps: bool, suffix: str = "png") -> dict[str, str]:
    """The name of each picture of a result, by its kind: ``"overlay"``, ``"labels"``, ``"heatmap.LABEL"``.

    A heat map's name has the label's index, which tells it from any other on every file system, and as much of the
    label as a file name can hold; the JSON says which label it is.

    Example:
        >>> from sclip_plugin.segment.results import file_names
        >>> file_names("photo", ["a/b", "a:b"], heatmaps=True)["heatmap.a:b"]
        'photo.heatmap.1-a_b.png'
    """
    names = {"overlay": f"{stem}.overlay.{suffix}", "labels": f"{stem}.labels.png"}
    if heatmaps:
        for index, label in enumerate(labels):
            names[f"heatmap.{label}"] = f"{stem}.heatmap.{index}-{readable(label)}.{suffix}"
    return names


def source_of(file: IO[bytes], path: str) -> dict[str, Any]:
    """What tells a picture from another under the same name: its path as given, its size in bytes, its content's hash.

    Args:
        file: open, at its start; read, and put back there.
        path: as given.
    """
    digest, size = hashlib.sha256(), 0
    while block := file.read(2**20):
        digest.update(block)
        size += len(block)
    file.seek(0)
    return {"path": path, "bytes": size, "sha256": digest.hexdigest()}


def retire(folder: Path, stem: str, names: Sequence[str]) -> None:
    """Make room for a new result: the old one's JSON goes, and its pictures that ``names`` will not replace."""
    path = folder / f"{stem}.json"
    path.unlink(missing_ok=True)
    old = re.compile(re.escape(path.stem) + _DRAWN, re.DOTALL)
    kept = {Path(name).name for name in names}
    if path.parent.is_dir():
        for entry in os.scandir(path.parent):
            if old.fullmatch(entry.name) and entry.name not in kept and is_marked(Path(entry.path)):
                os.unlink(entry.path)


def check_own(folder: Path, stem: str, endings: Iterable[str], source: dict[str, Any]) -> str | None:
    """Refuse to replace files that are no part of a result.

    Args:
        folder, stem: as for `Segmentation.save`.
        endings: what follows the stem in the names of the pictures.
        source: of the picture, as `source_of` gives it.

    Returns:
        The path of another picture, of which the result is that would be replaced; None where it is of none.

    Raises:
        SettingError: somebody else's file has such a name.
    """
    path = folder / f"{stem}.json"
    before = read_result(path)
    foreign = [path] if before is None and _is_there(path) else []
    pictures = [folder / f"{stem}{ending}" for ending in endings]
    foreign += [picture for picture in pictures if _is_there(picture) and not is_result(picture)]
    if foreign:
        raise SettingError(
            f"{', '.join(map(str, foreign))} would be replaced, and is no result of this program; move it away, or "
            "give another folder."
        )
    of = before.get("source") if before else None
    if not isinstance(of, dict) or any(of.get(key) == source[key] for key in ("path", "sha256")):
        return None
    return str(of.get("path"))


def _is_there(path: Path) -> bool:
    try:
        return os.lstat(path).st_size > 0  # an empty file is no loss
    except OSError:
        return False


def read_result(path: Path) -> dict[str, Any] | None:
    """The JSON of a result; None where there is none, or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and {"labels", "settings"} <= set(content) else None


def load(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The JSON of a result and its label map, (H, W) int16 with -1 for no label.

    Raises:
        FileFormatError: there is no such result, or it is not whole.
    """
    content = read_result(path)
    if content is None:
        raise FileFormatError(f"{path} is no result, as Segmentation.save writes it; expected its folder and its stem.")
    files = content.get("files")
    named = files.get("labels") if isinstance(files, dict) else None
    picture = path.with_name(Path(named).name if isinstance(named, str) and named else f"{path.stem}.labels.png")
    try:
        with opened(picture) as file:
            values = np.asarray(file)
    except PictureError as error:
        raise FileFormatError(f"{path} has no label map: {error}") from error
    if (values.shape[1::-1]) != (content.get("width"), content.get("height")) or values.ndim != 2:
        raise FileFormatError(f"{picture} is not the label map that {path} speaks of: its size is another.")
    unlabelled = 255 if values.dtype == np.uint8 else 65535
    return content, np.where(values == unlabelled, -1, values.astype(np.int32)).astype(np.int16)


def is_whole(path: Path, settings: Any, source: dict[str, Any], kinds: Sequence[str]) -> bool:
    """Whether a result's JSON is of these settings and this source, and all that it names, ``kinds`` too, is there."""
    content = read_result(path)
    if content is None or content["settings"] != settings or content.get("source") != source:
        return False
    files = content.get("files")
    if not isinstance(files, dict) or not set(kinds) <= set(files):
        return False
    return all(isinstance(name, str) and (path.parent / name).is_file() for name in files.values())


def is_result(path: Path) -> bool:
    """Whether a picture file is part of a result."""
    if is_marked(path):
        return True
    match = _OWN_NAME.fullmatch(path.name)  # of a release that left no mark
    return match is not None and read_result(path.with_name(f"{match['stem']}.json")) is not None


def counts_of(label_map: np.ndarray, classes: int) -> np.ndarray:
    """(classes + 1,) pixels of no label, then of each class.

    numpy counts in eight bytes a pixel, so a part is counted at a time.
    """
    counts = np.zeros(classes + 1, dtype=np.int64)
    pixels = label_map.reshape(-1)
    for start in range(0, len(pixels), PIXELS_AT_ONCE):
        counts += np.bincount(pixels[start : start + PIXELS_AT_ONCE] + 1, minlength=classes + 1)
    return counts
