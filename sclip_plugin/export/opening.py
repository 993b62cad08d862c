"""How a name becomes a format that is open."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingError
from .base import Format
from .registry import FORMATS


def list_formats() -> tuple[str, ...]:
    """Names of all formats, those of installed entry points included.

    Example:
        >>> from sclip_plugin.export import list_formats
        >>> {"coco", "yolo", "geojson", "csv"} <= set(list_formats())
        True
    """
    from . import annotation, coco, geojson, images, tables, yolo  # noqa: F401  (they register themselves)

    return FORMATS.names()


def find_format(name: str) -> type[Format]:
    """A format by its name.

    Raises:
        UnknownNameError: no such format; those that exist are listed.
    """
    list_formats()
    return FORMATS[name]


def open_export(format: str, path: str | os.PathLike[str], labels: Sequence[str], **options: Any) -> Format:
    """A format that results can be added to, over one picture or many.

    Args:
        format: a name of `list_formats`.
        path: a folder, made where it is missing; or the one file that the format writes, such as ``"all.json"``.
        labels: of all results.
        **options: ``regions``, ``min_area``, ``tolerance``; see `Format`.

    Raises:
        UnknownNameError: no such format.
        SettingError: an option that does not exist, or a wrong value.
        MissingPackageError: what the format needs is not installed.

    Example:
        >>> import tempfile, numpy as np, sclip_plugin as sp
        >>> from sclip_plugin.export import open_export
        >>> result = sp.Segmentation(["cat", "sofa"], np.eye(8, dtype=int))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open_export("csv", folder, result.labels) as table:
        ...         for name in ("a", "b"):
        ...             _ = table.add(result, name)
        ...     [path.name for path in table.written]
        ['labels.csv']
    """
    kind = find_format(format)
    known = {"regions", "min_area", "tolerance"}
    if unknown := sorted(set(options) - known):
        raise SettingError(f"export has no option {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    target = Path(path)
    if kind.suffix and target.suffix.lower() == kind.suffix and not target.is_dir():
        return kind(target.parent, labels, file=target.name, **options)
    return kind(target, labels, **options)
