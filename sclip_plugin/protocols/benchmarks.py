"""Benchmarks as data: one small YAML file per data set says its classes, its folders and how its masks are encoded.

The files of the eight data sets lie in ``data/`` beside this module; a file of your own works the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import SclipError, unknown_name

Classes = tuple[tuple[str, ...], ...]

_FOLDER = Path(__file__).parent / "data"
_REQUIRED = ("name", "images", "masks", "classes")
_OPTIONAL = (
    *("title", "folders", "split", "mask", "made_from", "resize_short_side"),
    *("notes", "vocabularies", "presets", "published"),
)
_MASK_KEYS = ("reduce_zero_label", "ignore_index", "note")


class BenchmarkFileError(SclipError, ValueError):
    """A benchmark file that cannot be read, or that says something that cannot be."""


@dataclass(frozen=True)
class PublishedFigure:
    """One mIoU that somebody published, in per cent, and where."""

    method: str
    miou: float
    source: str


@dataclass(frozen=True)
class Benchmark:
    """A data set to evaluate on: what its classes are, where its files lie, how its masks are encoded.

    Fields:
        name: short name, as in ``sclip eval voc21``.
        title: its full name.
        classes: one tuple per class, holding the names (synonyms) that the text encoder sees; class 0 first.
        images: glob of the pictures, relative to the data set's root.
        masks: glob of the masks, with as many ``*`` as ``images``: what the stars stand for pairs picture and mask.
        folders: where the data set usually lies in a folder that holds several.
        split: text file with one picture per line (what the stars stand for, joined by ``/``); None for all pictures.
        reduce_zero_label: label 0 of the mask files is left out and labels 1, 2, ... become classes 0, 1, ...
        ignore_index: the value of pixels that are left out.
        mask_note: the encoding in words.
        resize_short_side: pixels of the picture's short side in the published protocol.
        vocabularies: other lists of class names, by name; ``plain`` has one name per class and names the report's rows.
        made_from: globs of what people have before the masks are made, and ``made_by`` the command that makes them.
        presets: settings by name, as the file has them; read them with `load_preset`.
        published: figures to compare with.
        notes: what else one should know.
        path: the YAML file.
    """

    name: str
    title: str
    classes: Classes
    images: str
    masks: str
    folders: tuple[str, ...] = ()
    split: str | None = None
    reduce_zero_label: bool = False
    ignore_index: int = 255
    mask_note: str = ""
    resize_short_side: int = 336
    vocabularies: Mapping[str, Classes] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()
    made_by: str = ""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: tuple[PublishedFigure, ...] = ()
    notes: str = ""
    path: Path | None = None

    @property
    def num_classes(self) -> int:
        """How many classes a label map may show, background included where it is a class."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, for tables: those of the vocabulary ``plain`` where there is one, else the first ones."""
        return tuple(names[0] for names in self.vocabularies.get("plain", self.classes))

    def published_miou(self, method: str) -> PublishedFigure | None:
        """The first published figure of a method as the papers call it ("SCLIP"), or None."""
        return next((figure for figure in self.published if figure.method == method), None)


def list_benchmarks() -> tuple[str, ...]:
    """Names of the benchmarks that ship with the package, for `load_benchmark`.

    >>> list_benchmarks()
    ('voc21', 'context60', 'coco_object', 'voc20', 'cityscapes', 'context59', 'ade20k', 'coco_stuff')
    """
    # The order of SCLIP's tables: with background, then without.
    order = ("voc21", "context60", "coco_object", "voc20", "cityscapes", "context59", "ade20k", "coco_stuff")
    found = {path.stem for path in _FOLDER.glob("*.yaml")}
    return tuple(name for name in order if name in found) + tuple(sorted(found - set(order)))


def load_benchmark(name_or_path: str | Path) -> Benchmark:
    """The benchmark of that name, or the one that a YAML file of your own describes.

    Args:
        name_or_path: a name of `list_benchmarks`, or a path that ends in ``.yaml`` or ``.yml``.

    Raises:
        UnknownNameError: no benchmark has this name.
        FileNotFoundError: the YAML file does not exist.
        BenchmarkFileError: the file lacks a key, or has one that is not known or has the wrong form.

    >>> load_benchmark("voc21").class_names[:3]
    ('background', 'aeroplane', 'bicycle')
    """
    if isinstance(name_or_path, Path) or str(name_or_path).endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(f"no benchmark file at '{path}'. Names that ship: {', '.join(list_benchmarks())}.")
        return _read(path)
    if name_or_path not in list_benchmarks():
        raise unknown_name("benchmark", name_or_path, list_benchmarks())
    return _read_shipped(name_or_path)


@cache
def _read_shipped(name: str) -> Benchmark:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Benchmark:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BenchmarkFileError(f"{path} is not YAML: {error}") from error
    if not isinstance(given, dict):
        raise BenchmarkFileError(f"{path} holds {type(given).__name__}; expected keys such as {', '.join(_REQUIRED)}.")
    _check_keys(path, "", given, required=_REQUIRED, optional=_OPTIONAL)
    mask = given.get("mask") or {}
    _check_keys(path, "mask.", mask, optional=_MASK_KEYS)
    made_from = given.get("made_from") or {}
    _check_keys(path, "made_from.", made_from, optional=("files", "command"))

    classes = _classes(path, "classes", given["classes"])
    vocabularies = {
        name: _classes(path, f"vocabularies.{name}", names) for name, names in (given.get("vocabularies") or {}).items()
    }
    for name, names in vocabularies.items():
        if len(names) != len(classes):
            raise BenchmarkFileError(
                f"{path}: vocabularies.{name} has {len(names)} classes, 'classes' has {len(classes)}; they must agree."
            )
    images, masks = str(given["images"]), str(given["masks"])
    if images.count("*") != masks.count("*") or "*" not in images:
        raise BenchmarkFileError(
            f"{path}: images '{images}' and masks '{masks}' must have the same number of stars, one at least: "
            "what a star stands for pairs a picture with its mask."
        )
    benchmark = Benchmark(
        name=str(given["name"]),
        title=str(given.get("title", given["name"])),
        classes=classes,
        images=images,
        masks=masks,
        folders=tuple(given.get("folders") or ()),
        split=given.get("split"),
        reduce_zero_label=bool(mask.get("reduce_zero_label", False)),
        ignore_index=int(mask.get("ignore_index", 255)),
        mask_note=str(mask.get("note", "")),
        resize_short_side=int(given.get("resize_short_side", 336)),
        vocabularies=vocabularies,
        made_from=tuple(made_from.get("files", ())),
        made_by=str(made_from.get("command", "")),
        presets=given.get("presets") or {},
        published=tuple(
            PublishedFigure(str(method), float(miou), str(group["source"]))
            for group in given.get("published") or ()
            for method, miou in group["miou"].items()
        ),
        notes=str(given.get("notes", "")),
        path=path,
    )
    if 0 <= benchmark.ignore_index < benchmark.num_classes:
        raise BenchmarkFileError(
            f"{path}: ignore_index {benchmark.ignore_index} is also a class; {benchmark.num_classes} classes need an "
            f"ignore_index of {benchmark.num_classes} or more (or below 0)."
        )
    return benchmark


def _check_keys(path: Path, prefix: str, given: Mapping, *, required=(), optional=()) -> None:
    if not isinstance(given, Mapping):
        raise BenchmarkFileError(f"{path}: '{prefix.rstrip('.')}' must hold keys and values, not {given!r}.")
    missing = [key for key in required if key not in given]
    if missing:
        raise BenchmarkFileError(f"{path} lacks {', '.join(missing)}; required: {', '.join(required)}.")
    for key in given:
        if key not in required and key not in optional:
            kind = f"key of '{prefix.rstrip('.')}'" if prefix else "key"
            raise BenchmarkFileError(f"{path}: {unknown_name(kind, key, (*required, *optional))}")


def _classes(path: Path, key: str, given: Any) -> Classes:
    """A list of names, where a list in place of a name holds synonyms."""
    if not isinstance(given, list) or not given:
        raise BenchmarkFileError(f"{path}: '{key}' must be a list of class names, one at least.")
    classes = tuple(tuple(names) if isinstance(names, list) else (names,) for names in given)
    for position, names in enumerate(classes):
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise BenchmarkFileError(
                f"{path}: class {position} of '{key}' is {given[position]!r}; expected a name, or a list of names. "
                "Names that YAML reads as something else (yes, no, on, numbers) need quotes."
            )
    return classes
