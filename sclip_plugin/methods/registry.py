"""The registry of methods, and how texts become methods."""

from __future__ import annotations

from typing import Any

from ..grammar import Parts, registering
from .base import Method

METHODS = Parts("method", "sclip_plugin.methods", Method)
"""Maps a name to a `Method` subclass: a frozen dataclass, called with its options as keywords."""

register_method = registering(METHODS)
"""Class decorator: register a `Method` subclass under a name, for every surface.

A name that is taken is an error unless ``replace`` is set. ``aliases`` are further names, which are not listed. An
installed package can do the same by an entry point in the group ``sclip_plugin.methods``. `AttentionMethod` has an
example.
"""


def list_methods() -> tuple[str, ...]:
    """Names of all methods, including those of entry points.

    Example:
        >>> import sclip_plugin as sp
        >>> {"vanilla", "csa", "naclip"} <= set(sp.list_methods())
        True
    """
    return METHODS.names()


def methods_alone() -> tuple[str, ...]:
    """Names of the methods that need no outside model and no masks; the command line calls them ``all``.

    >>> "csa" in methods_alone(), "proxyclip" in methods_alone()
    (True, False)
    """
    return tuple(n for n in list_methods() if not (METHODS[n].needs_outside_model() or METHODS[n].sees_regions))


def make_method(method: str | Method, options: dict[str, Any] | None = None) -> Method:
    """A method from its text, such as ``"naclip(std=4.0)"``; a `Method` object is returned with the options replaced.

    Raises:
        SettingError: the text can't be read, or an option has the wrong type.
        UnknownNameError: the method or the option does not exist; the message lists those that do.
    """
    return METHODS.make(method, **(options or {}))
