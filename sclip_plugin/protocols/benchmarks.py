"""Benchmarks as data: one small YAML file per data set says its classes, its folders and how its masks are encoded.

The files of the eight data sets lie in ``data/`` beside this module; a file of your own works the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import SclipError, unknown_name
from ..storage.reading import TextFileError, brief, load_yaml, read_text

Classes = tuple[tuple[str, ...], ...]

_FOLDER = Path(__file__).parent / "data"
_REQUIRED = ("name", "images", "masks", "classes")
_OPTIONAL = (
    *("title", "pictures", "folders", "split", "mask", "made_from", "resize_short_side"),
    *("notes", "vocabularies", "presets", "published"),
)
# A benchmark's name is part of a folder's: nothing that leads elsewhere, and nothing that some system forbids.
_NAME = re.compile(r"[^\W_][\w.+ -]{0,99}")
_MASK_KEYS = ("reduce_zero_label", "ignore_index", "note")


class BenchmarkNotFoundError(SclipError, FileNotFoundError):
    """A benchmark file that does not exist."""


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
        pictures: how many pictures the whole of it has; None where that is not known.
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
    pictures: int | None = None
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
            raise BenchmarkNotFoundError(
                f"no benchmark file at '{path}'. Names that ship: {', '.join(list_benchmarks())}."
            )
        return _read(path)
    if name_or_path not in list_benchmarks():
        raise unknown_name("benchmark", name_or_path, list_benchmarks())
    return _read_shipped(name_or_path)


@cache
def _read_shipped(name: str) -> Benchmark:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Benchmark:
    try:
        given = load_yaml(read_text(path), path)
    except TextFileError as error:
        raise BenchmarkFileError(str(error)) from error
    if not isinstance(given, dict):
        raise BenchmarkFileError(f"{path} holds {type(given).__name__}; expected keys such as {', '.join(_REQUIRED)}.")
    _check_keys(path, "", given, required=_REQUIRED, optional=_OPTIONAL)
    mask = _mapping(path, "mask", given.get("mask"))
    _check_keys(path, "mask.", mask, optional=_MASK_KEYS)
    made_from = _mapping(path, "made_from", given.get("made_from"))
    _check_keys(path, "made_from.", made_from, optional=("files", "command"))

    classes = _classes(path, "classes", given["classes"])
    vocabularies = {
        name: _classes(path, f"vocabularies.{name}", names)
        for name, names in _mapping(path, "vocabularies", given.get("vocabularies")).items()
    }
    for name, names in vocabularies.items():
        if len(names) != len(classes):
            raise BenchmarkFileError(
                f"{path}: vocabularies.{name} has {len(names)} classes, 'classes' has {len(classes)}; they must agree."
            )
    name = _text(path, "name", given["name"])
    if not _NAME.fullmatch(name) or name.rstrip(". ") != name:
        raise BenchmarkFileError(
            f"{path}: the name {brief(name)} cannot be a folder's; expected letters, digits, '.', '-', '_', such as "
            "'my-roads'."
        )
    images, masks = _patterns(path, given)
    split = given.get("split")
    pictures = given.get("pictures")
    presets = _mapping(path, "presets", given.get("presets"))
    benchmark = Benchmark(
        name=name,
        title=_text(path, "title", given.get("title", name)),
        classes=classes,
        images=images,
        masks=masks,
        folders=tuple(_below(path, "folders", folder) for folder in _list(path, "folders", given.get("folders"))),
        split=None if split is None else _below(path, "split", split),
        reduce_zero_label=_flag(path, "mask.reduce_zero_label", mask.get("reduce_zero_label", False)),
        ignore_index=_integer(path, "mask.ignore_index", mask.get("ignore_index", 255), -(2**31), 2**31 - 1),
        mask_note=_text(path, "mask.note", mask.get("note", "")),
        resize_short_side=_integer(path, "resize_short_side", given.get("resize_short_side", 336), 0, 2**16),
        vocabularies=vocabularies,
        made_from=tuple(_below(path, "made_from.files", f) for f in _list(path, "files", made_from.get("files"))),
        made_by=_text(path, "made_from.command", made_from.get("command", "")),
        presets={key: _preset(path, f"presets.{key}", preset) for key, preset in presets.items()},
        pictures=None if pictures is None else _integer(path, "pictures", pictures, 1, 2**31 - 1),
        published=tuple(_published(path, given.get("published"))),
        notes=_text(path, "notes", given.get("notes", "")),
        path=path,
    )
    if 0 <= benchmark.ignore_index < benchmark.num_classes:
        raise BenchmarkFileError(
            f"{path}: ignore_index {benchmark.ignore_index} is also a class; {benchmark.num_classes} classes need an "
            f"ignore_index of {benchmark.num_classes} or more (or below 0)."
        )
    return benchmark


def _patterns(path: Path, given: Mapping[str, Any]) -> tuple[str, str]:
    """Where pictures and masks lie: what a star stands for pairs a picture with its mask."""
    images, masks = _below(path, "images", given["images"]), _below(path, "masks", given["masks"])
    if images.count("*") != masks.count("*") or "*" not in images:
        raise BenchmarkFileError(
            f"{path}: images {brief(images)} and masks {brief(masks)} must have the same number of stars, one at least:"
            " what a star stands for pairs a picture with its mask."
        )
    for pattern in (images, masks):
        if "**" in pattern or "?" in pattern or "[" in pattern:
            raise BenchmarkFileError(f"{path}: {brief(pattern)}: expected single stars, no other wildcards.")
    return images, masks


def _preset(path: Path, key: str, given: Any) -> Mapping[str, Any]:
    """Settings by name; what they may be is for `Settings` to say, when the preset is asked for."""
    preset = _mapping(path, key, given)
    for name in {"method", "vocabulary", "published_as", "differs"} & set(preset):
        _text(path, f"{key}.{name}", preset[name])
    return preset


def _published(path: Path, given: Any) -> list[PublishedFigure]:
    figures = []
    for group in _list(path, "published", given):
        _check_keys(path, "published.", group, required=("source", "miou"))
        for method, miou in _mapping(path, "published.miou", group["miou"]).items():
            if isinstance(miou, bool) or not isinstance(miou, (int, float)):
                raise _wrong(path, f"published.miou.{method}", miou, "a number")
            figures.append(PublishedFigure(str(method), float(miou), _text(path, "published.source", group["source"])))
    return figures


def _wrong(path: Path, key: str, value: Any, expected: str) -> BenchmarkFileError:
    return BenchmarkFileError(f"{path}: '{key:.80}' is {brief(value)}; expected {expected}.")


def _mapping(path: Path, key: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _wrong(path, key, value, "keys and values, the keys text")
    return value


def _list(path: Path, key: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(path, key, value, "a list")
    return value


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        raise _wrong(path, key, value, "a text of 2000 characters at most")
    return value


def _flag(path: Path, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, key, value, "true or false")
    return value


def _integer(path: Path, key: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(path, key, value, f"a whole number from {low} to {high}")
    return value


def _below(path: Path, key: str, value: Any) -> str:
    """A path or pattern within the data set's folder."""
    text = _text(path, key, value)
    windows = PureWindowsPath(text)
    parts = {*PurePosixPath(text).parts, *windows.parts}
    if not text.strip() or "\0" in text or ".." in parts or text.startswith("/") or windows.drive or windows.root:
        raise _wrong(path, key, value, "a path within the data set's folder, such as 'JPEGImages/*.jpg'")
    return text


def _check_keys(path: Path, prefix: str, given: Any, *, required=(), optional=()) -> None:
    if not isinstance(given, Mapping):
        raise BenchmarkFileError(f"{path}: '{prefix.rstrip('.')}' must hold keys and values, not {brief(given)}.")
    missing = [key for key in required if key not in given]
    if missing:
        raise BenchmarkFileError(f"{path} lacks {', '.join(missing)}; required: {', '.join(required)}.")
    for key in given:
        if key not in required and key not in optional:
            kind = f"key of '{prefix.rstrip('.')}'" if prefix else "key"
            shown = key if isinstance(key, str) and len(key) <= 60 else brief(key)
            raise BenchmarkFileError(f"{path}: {unknown_name(kind, shown, (*required, *optional))}")


def _classes(path: Path, key: str, given: Any) -> Classes:
    """A list of names, where a list in place of a name holds synonyms."""
    if not isinstance(given, list) or not given:
        raise BenchmarkFileError(f"{path}: '{key:.80}' must be a list of class names, one at least.")
    classes = tuple(tuple(names) if isinstance(names, list) else (names,) for names in given)
    for position, names in enumerate(classes):
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise BenchmarkFileError(
                f"{path}: class {position} of '{key:.80}' is {brief(given[position])}; expected a name, or a list of "
                "names. Names that YAML reads as something else (yes, no, on, numbers) need quotes."
            )
    return classes
