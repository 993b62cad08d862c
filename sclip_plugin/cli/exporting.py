"""``--format``: what is written for other programs, while pictures are segmented."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..segment.segmentation import Segmentation

Formats = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="Also export to these formats (comma-separated), each into its own folder in --out: coco, coco-polygons, "
        "yolo, labelstudio, cvat, labelme, geojson, png, cutouts, sheet, scores, csv.",
    ),
]
RegionsOf = Annotated[
    str | None,
    typer.Option(
        "--regions",
        help="One object of the export: components (connected regions) or classes; the default depends on the format.",
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
    from ..export.registry import find_format

    own = {name: options for name, options in formats.items() if not find_format(name).common}
    return {"formats": own} if own else {}


class Exports:
    """The formats of one run, each in a folder of its name."""

    def __init__(self, out: Path, labels: tuple[str, ...], formats: dict[str, dict[str, Any]]) -> None:
        from ..export import open_export

        self.out = out
        self.open = {name: open_export(name, out / name, labels, **options) for name, options in formats.items()}

    def add(self, result: Segmentation, stem: str, source: str) -> dict[str, list[str]]:
        """One picture; what was written for it alone."""
        written = {name: out.add(result, stem, source) for name, out in self.open.items()}
        return {name: [str(path) for path in paths] for name, paths in written.items() if paths}

    def recall(self, stem: str, source: str, file: IO[bytes]) -> None:
        """A picture that was done before: its own files are there; files over all pictures still need it."""
        from ..imaging.pictures import read_picture
        from ..segment.segmentation import Segmentation

        common = [out for out in self.open.values() if out.common]
        if common:
            picture = read_picture(file) if any(out.needs_picture for out in common) else None
            result = Segmentation.load(self.out, stem, picture)
            for out in common:
                out.add(result, stem, source)

    def close(self) -> dict[str, list[str]]:
        """Write what holds all pictures; those files."""
        finished = {name: out.finish() for name, out in self.open.items()}
        return {name: [str(path) for path in paths] for name, paths in finished.items() if paths}
