"""Imports that wait: names that are loaded when first used, and actions for when another package's module is there.

`after_import` is written out here because it is small: the library for it (wrapt) takes longer to import than the rest
of this package. Nothing of the other package is changed. The finder stands in front of the others, asks them as Python
would, and passes on what they find; the module is executed by its own loader, and keeps it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from .errors import MissingPackageError


def after_import(name: str, action: Callable[[], object]) -> None:
    """Call ``action`` when the module ``name`` has been imported: now, if it already is.

    The import belongs to someone else, so it succeeds whatever happens in the action: an error becomes a warning.

    Example:
        >>> from sclip_plugin.importing import after_import
        >>> after_import("json", lambda: print("json is here"))
        json is here
    """
    if name in sys.modules:
        _call(name, action)
    else:
        sys.meta_path.insert(0, _Finder(name, action))  # type: ignore[arg-type]


def _call(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except Exception as error:  # whatever a version that is not known yet may raise
        warnings.warn(f"sclip_plugin could not add itself to {name}: {type(error).__name__}: {error}", stacklevel=2)


class _Finder:
    def __init__(self, name: str, action: Callable[[], object]) -> None:
        self.name = name
        self.action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    def __init__(self, loader: Any, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:  # once, although others may ask for the spec too
            sys.meta_path.remove(self.finder)  # type: ignore[arg-type]
            _call(self.finder.name, self.finder.action)


def needs(module: str, extra: str | None = None) -> Any:
    """A module of an optional package.

    Args:
        module: by its full name.
        extra: of this package that brings it; None for a package that no extra has.

    Raises:
        MissingPackageError: it is not installed; the message says how to get it.

    Example:
        >>> from sclip_plugin.importing import needs
        >>> needs("json").dumps([1])
        '[1]'
        >>> needs("no_such_package.part", "export")
        Traceback (most recent call last):
        ...
        sclip_plugin.errors.MissingPackageError: this needs no_such_package: pip install "sclip_plugin[export]".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        how = f'"sclip_plugin[{extra}]"' if extra else package
        raise MissingPackageError(f"this needs {package}: pip install {how}.") from error


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a package's ``__init__`` (PEP 562).

    Args:
        package: the package's ``__name__``.
        homes: each public name, and the module of the package that defines it.

    Example:
        >>> from sclip_plugin.importing import lazy_names
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
