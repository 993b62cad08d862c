"""Names of a package that are loaded when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a package's ``__init__`` (PEP 562).

    Args:
        package: the package's ``__name__``.
        homes: each public name, and the module of the package that defines it.

    Example:
        >>> from sclip_plugin.lazy import lazy_names
        >>> getattribute, listing = lazy_names("sclip_plugin", {"LabelError": "errors"})
        >>> getattribute("LabelError").__name__, listing()
        ('LabelError', ['LabelError'])
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, lambda: sorted(homes)
