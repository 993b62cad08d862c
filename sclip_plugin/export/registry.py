"""The registry of formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..registry import Registry
from .base import Format

F = TypeVar("F", bound=Format)

FORMATS: Registry[type[Format]] = Registry("format", "sclip_plugin.formats")
"""Maps a name to a `Format` subclass."""


def register_format(name: str, *, replace: bool = False) -> Callable[[type[F]], type[F]]:
    """Class decorator: make a `Format` known to `result.export` and to ``sclip segment --format``.

    An installed package can do the same with an entry point in the group ``sclip_plugin.formats``.
    """
    return FORMATS.register(name, replace=replace)  # type: ignore[return-value]
