"""The registry of methods, and how a name with options becomes a method."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import UnknownNameError
from ..registry import Registry
from .base import Method

METHODS: Registry[type[Method]] = Registry("method", "sclip_plugin.methods")
"""Maps a name to a `Method` subclass: a frozen dataclass, called with its options as keywords."""


def register_method(name: str):
    """Class decorator: make a `Method` subclass available under ``name`` everywhere a method is named.

    An installed package can do the same with an entry point in the group ``sclip_plugin.methods``.
    For an example that runs, see `AttentionMethod`.
    """
    return METHODS.register(name)


def list_methods() -> tuple[str, ...]:
    """Names of all registered methods, those of installed entry points included.

    Example:
        >>> import sclip_plugin as sp
        >>> {"vanilla", "csa", "naclip"} <= set(sp.list_methods())
        True
    """
    return METHODS.names()


def make_method(method: str | Method, options: dict[str, Any] | None = None) -> Method:
    """A method from its name and options; a method in hand is returned with the options replaced.

    Raises:
        UnknownNameError: no such method, or it has no such option; the message lists those that exist.
    """
    options = options or {}
    cls = type(method) if isinstance(method, Method) else METHODS[method]
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UnknownNameError(f"method '{cls.name}' has no option {unknown[0]!r}; it has {', '.join(known)}.")
    return dataclasses.replace(method, **options) if isinstance(method, Method) else cls(**options)
