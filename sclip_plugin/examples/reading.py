"""`read_examples`: which form annotations have, and who reads it."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, SclipError
from ..storage.reading import read_text
from .base import Examples, Pictures
from .documents import Reader, load_names, read_coco, read_cvat, read_label_studio, read_labelme, read_yolo
from .folders import read_masks, read_results

READERS: dict[str, Reader] = {
    "COCO JSON": read_coco,
    "labelme": read_labelme,
    "Label Studio": read_label_studio,
    "CVAT": read_cvat,
    "YOLO": read_yolo,
}
RESULTS = "results of sclip segment"


def read_examples(
    places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], labels: list[str] | None = None
) -> Examples:
    """Annotated pictures, in any of the forms that this package knows.

    Args:
        places: folders, which are searched through, and files: COCO JSON (polygons, run lengths), labelme, Label
            Studio, CVAT, YOLO's ``data.yaml``, results of ``sclip segment``, or PNG masks of ids or with a palette that
            have the stems of their pictures. One of these forms at a time.
        labels: names of the ids of PNG masks, where no ``classes.txt`` names them.

    Returns:
        `Examples`.

    Raises:
        FileFormatError: no annotations, several forms, or a broken file.
        LabelError: nothing says what the ids of masks mean.

    Example:
        >>> import tempfile, pathlib, sclip_plugin as sp
        >>> from sclip_plugin.examples.reading import read_examples
        >>> scene = sp.draw_scene(seed=7)
        >>> result = sp.Segmentation(scene.labels, scene.label_map, scene.picture)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scene.picture.save(pathlib.Path(folder) / "picture.png")
        ...     _ = result.export(folder, "labelme", source=pathlib.Path(folder) / "picture.png")
        ...     found = read_examples(folder)
        >>> found.kind, set(found.categories) == set(scene.labels), len(found.items)
        ('labelme', True, 1)
    """
    given = [places] if isinstance(places, (str, os.PathLike)) else list(places)
    paths = [Path(place) for place in given]
    for path in paths:
        if not path.exists():
            raise FileFormatError(f"{path} is not there; expected a folder or a file of annotations.")
    pictures = Pictures(paths)
    documents = [(file, *found) for file in pictures.files if (found := _kind_of(file)) is not None]
    if any(kind != RESULTS for _, kind, _ in documents):  # what was made of the pictures may lie beside them
        documents = [document for document in documents if document[1] != RESULTS]
    kinds = sorted({kind for _, kind, _ in documents})
    if len(kinds) > 1:
        first = "; ".join(f"{kind}: {next(f for f, k, _ in documents if k == kind)}" for kind in kinds)
        raise FileFormatError(f"annotations of several forms were found ({first}); give one of them.")
    if not kinds:
        return read_masks(pictures, labels)
    out = Examples(kinds[0])
    for file, kind, content in documents:
        try:
            if kind == RESULTS:
                read_results(out, file, pictures)
            else:
                READERS[kind](out, file, content, pictures)
        except SclipError:
            raise
        except Exception as error:  # whatever broken or unusual annotations make of their reader
            raise FileFormatError(
                f"{file} is not {kind} as it is known here: {type(error).__name__}: {error}"
            ) from error
    return out


def _kind_of(file: Path) -> tuple[str, Any] | None:
    """The form of a document and its content; None of any other file."""
    suffix = file.suffix.lower()
    if suffix == ".xml":
        try:
            root = ElementTree.fromstring(read_text(file))
        except (ElementTree.ParseError, SclipError):
            return None
        return ("CVAT", root) if root.tag == "annotations" and root.find("image") is not None else None
    if suffix in (".yaml", ".yml"):
        content = load_names(file)
        return ("YOLO", content) if isinstance(content, dict) and {"names", "train"} <= content.keys() else None
    if suffix != ".json":
        return None
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file} cannot be read as JSON: {error}") from error
    if isinstance(content, dict):
        if {"images", "annotations", "categories"} <= content.keys():
            return "COCO JSON", content
        if "shapes" in content and {"imagePath", "imageData"} & content.keys():
            return "labelme", content
        return (RESULTS, content) if {"labels", "settings"} <= content.keys() else None
    tasks = isinstance(content, list) and content and all(isinstance(task, dict) and "data" in task for task in content)
    return ("Label Studio", content) if tasks else None
