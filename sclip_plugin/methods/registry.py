"""The registry of methods, and how a name with options becomes a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import UnknownNameError
from ..registry import Registry
from .base import Method

M = TypeVar("M", bound=Method)

METHODS: Registry[type[Method]] = Registry("method", "sclip_plugin.methods")
"""Maps a name to a `Method` subclass: a frozen dataclass, called with its options as keywords."""


def register_method(name: str, *, replace: bool = False, aliases: tuple[str, ...] = ()) -> Callable[[type[M]], type[M]]:
    """Class decorator: make a `Method` subclass available under ``name`` everywhere a method is named.

    A name that is taken is an error unless ``replace`` is set; ``aliases`` lead to the method too, and are not listed.

    An installed package can do the same with an entry point in the group ``sclip_plugin.methods``.
    For an example that runs, see `AttentionMethod`.
    """
    return METHODS.register(name, replace=replace, aliases=aliases)  # type: ignore[return-value]


def list_methods() -> tuple[str, ...]:
    """Names of all registered methods, those of installed entry points included.

    Example:
        >>> import sclip_plugin as sp
        >>> {"vanilla", "csa", "naclip"} <= set(sp.list_methods())
        True
    """
    return METHODS.names()


def methods_alone() -> tuple[str, ...]:
    """Names of the methods that need no outside model and no masks: what ``all`` stands for on a command line.

    >>> "csa" in methods_alone(), "proxyclip" in methods_alone()
    (True, False)
    """
    return tuple(name for name in list_methods() if not (METHODS[name].needs_outside_model or METHODS[name].sees_masks))


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


def options_of(method: Method) -> tuple[str | Method, dict[str, Any]]:
    """A method as its name and the options that differ from their defaults.

    A method that is not registered, or holds what cannot be compared (another model), stays as it is. The ``text`` that
    the segmenter binds is not among the options.
    """
    fields = [f for f in dataclasses.fields(method) if f.name != "text"]
    if type(method) not in METHODS or not all(f.compare for f in fields):
        return method, {}
    plain = type(method)()
    own = {f.name: getattr(method, f.name) for f in fields}
    return method.name, {key: value for key, value in own.items() if value != getattr(plain, key)}
