"""``--format``: what is written for other programs, while pictures are segmented."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileFormatError, SclipError, SettingError
from .pictures import NamedPicture
from .terminal import tell

if TYPE_CHECKING:
    from ..export import Format
    from ..segment.segmentation import Segmentation

Formats = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="Also export to these formats (comma-separated), each into its own folder in --out: coco, coco-polygons, "
        "yolo, labelstudio, cvat, labelme, geojson, png, cutouts, sheet, scores, csv.",
        rich_help_panel="Output",
    ),
]
RegionsOf = Annotated[
    str | None,
    typer.Option(
        "--regions",
        help="One object of the export: components (connected regions) or classes; the default depends on the format.",
        rich_help_panel="Output",
    ),
]


def split_formats(formats: str | None, regions: str | None) -> dict[str, dict[str, Any]]:
    """Names of formats with their options, checked before a model is fetched.

    Raises:
        UnknownNameError: no such format.
        SettingError: neither components nor classes.
        MissingPackageError: what a format needs is not installed.
    """
    from ..export import open_export

    names = dict.fromkeys(name.strip() for name in (formats or "").split(",") if name.strip())
    chosen = {name: {"regions": regions} if regions else {} for name in names}
    for name, options in chosen.items():
        open_export(name, "-", ["-"], **options)
    return chosen


def beside_each_picture(formats: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of formats those that write files for each picture, for the JSON: with others a picture is done again."""
    from ..export.opening import find_format

    own = {name: options for name, options in formats.items() if not find_format(name).common}
    return {"formats": own} if own else {}


class Exports:
    """The formats of one run, each in a folder of its name.

    Beside its files a folder keeps a record, so that a later run knows its own folder from somebody else's, and which
    pictures a file over all pictures holds: those that are not in the later run are added to it again, from their
    results in ``out``.

    Args:
        out: the folder for results.
        labels: of all pictures.
        formats: names of formats with their options.
    """

    def __init__(self, out: Path, labels: tuple[str, ...], formats: dict[str, dict[str, Any]]) -> None:
        from ..export import open_export

        self.out = out
        self.labels = labels
        self.open = {name: open_export(name, out / name, labels, **options) for name, options in formats.items()}
        self.added: dict[str, str] = {}  # the source of each picture of this run, by stem

    def check(self, stems: Collection[str]) -> None:
        """Refuse what a run over pictures of these stems would destroy; say what it can't keep.

        Raises:
            SettingError: a folder that this program did not write, a file that was changed since, or other pictures
                with other labels.
        """
        for name, format in self.open.items():
            record = _read_record(format.folder)
            if record is None:
                _check_empty(format.folder)
                continue
            for file, digest in record["files"].items():
                path = format.folder / file
                if path.is_file() and _digest(path) != digest:
                    raise SettingError(
                        f"{path} was changed since it was exported, and would be replaced; move it away, or give "
                        "another --out."
                    )
            others = {stem for stem in _held(format, record) if stem not in stems}
            if others and tuple(record["labels"]) != self.labels:
                raise SettingError(
                    f"{format.folder} holds {_few(others)} with other labels, and one file holds the labels of all; "
                    "give another --out, or name these pictures, too."
                )
            gone = [stem for stem in others if not (self.out / f"{stem}.json").is_file()]
            if gone:
                tell(f"warning: {name} will no longer hold {_few(gone)}: their results in {self.out} are gone.")

    def add(self, result: Segmentation, stem: str, source: str) -> dict[str, list[str]]:
        """One picture; what was written for it alone."""
        self._claim()
        written = {name: format.add(result, stem, source) for name, format in self.open.items()}
        self.added[stem] = source
        return {name: [str(path) for path in paths] for name, paths in written.items() if paths}

    def recall(self, stem: str, source: str, file: IO[bytes]) -> None:
        """A picture that was done before: its own files are there; files over all pictures still need it."""
        self._claim()
        common = [format for format in self.open.values() if format.common]
        if common:
            self._recall(common, stem, source, file)
        self.added[stem] = source

    def close(self) -> dict[str, list[str]]:
        """Write what holds all pictures, where there are any; those files."""
        from ..storage.files import locked_folder

        finished = {}
        for name, format in self.open.items() if self.added else ():
            with locked_folder(format.folder):
                pictures = {**self._others(format), **self.added}
                _write_record(format.folder, self.labels, pictures, [])  # no digest while the file is replaced
                finished[name] = format.finish()
                _write_record(format.folder, self.labels, pictures, finished[name])
        return {name: [str(path) for path in paths] for name, paths in finished.items() if paths}

    def _claim(self) -> None:
        for format in () if self.added else self.open.values():
            if _read_record(format.folder) is None:
                _write_record(format.folder, self.labels, {}, [])

    def _others(self, format: Format) -> dict[str, str]:
        """Add the pictures of earlier runs that are not in this one; those that could be."""
        kept = {}
        for stem, source in _held(format, _read_record(format.folder)).items():
            if stem in self.added or not (self.out / f"{stem}.json").is_file():
                continue
            try:
                if format.common:
                    with NamedPicture.of(source).open() if format.needs_picture else nullcontext() as file:
                        self._recall([format], stem, source, file)
                kept[stem] = source
            except (SclipError, OSError) as error:
                tell(f"warning: {format.folder} no longer holds {stem}: {error}")
        return kept

    def _recall(self, formats: list[Format], stem: str, source: str, file: IO[bytes] | None) -> None:
        from ..imaging.pictures import read_picture
        from ..segment.segmentation import Segmentation

        wanted = file is not None and any(format.needs_picture for format in formats)
        result = Segmentation.load(self.out, stem, read_picture(file) if wanted else None)  # type: ignore[arg-type]
        for format in formats:
            format.add(result, stem, source)


RECORD = ".sclip-export"


def _held(format: Format, record: dict[str, Any] | None) -> dict[str, str]:
    """The pictures that a format's folder holds, where they share a file: all of them, or what their labels are."""
    from ..export import Format

    shared = type(format).finish is not Format.finish
    there = format.common is None or (format.folder / format.common).is_file()
    return record["pictures"] if record is not None and shared and there else {}


def _read_record(folder: Path) -> dict[str, Any] | None:
    """What `_write_record` wrote; None where there is none."""
    from ..storage.reading import load_json, read_text

    path = folder / RECORD
    if not path.exists():
        return None
    record = load_json(read_text(path), path)
    fits = isinstance(record, dict) and isinstance(record.get("labels"), list)
    if not fits or not all(_of_texts(record.get(key)) for key in ("pictures", "files")):
        raise FileFormatError(f"{path} is no record of an export; remove it with the folder, or give another --out.")
    return record


def _of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _write_record(folder: Path, labels: tuple[str, ...], pictures: dict[str, str], files: list[Path]) -> None:
    from ..storage.files import write_atomically

    digests = {path.name: _digest(path) for path in files}
    text = json.dumps({"labels": labels, "pictures": pictures, "files": digests})  # ASCII: names may be no text
    write_atomically(folder / RECORD, text.encode())


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(not name.startswith(".") for name in os.listdir(folder))):
        raise SettingError(
            f"{folder} is there, and 'sclip segment' did not write it (it has no {RECORD}); move it away, or give "
            "another --out."
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _few(stems: Collection[str]) -> str:
    listed = sorted(stems)
    return f"{len(listed)} other pictures ({', '.join(listed[:3])}{', …' if len(listed) > 3 else ''})"
