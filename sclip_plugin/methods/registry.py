"""The registry of methods, and how a name with options becomes a method."""

from __future__ import annotations

from typing import Any

from ..grammar import Parts, registering
from .base import Method

METHODS = Parts("method", "sclip_plugin.methods", Method)
"""Maps a name to a `Method` subclass: a frozen dataclass, called with its options as keywords."""

register_method = registering(METHODS)
"""Class decorator: make a `Method` subclass available under a name everywhere a method is named.

A name that is taken is an error unless ``replace`` is set; ``aliases`` lead to the method too, and are not listed. An
installed package can do the same with an entry point in the group ``sclip_plugin.methods``. For an example that runs,
see `AttentionMethod`.
"""


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
    return tuple(n for n in list_methods() if not (METHODS[n].needs_outside_model() or METHODS[n].sees_regions))


def make_method(method: str | Method, options: dict[str, Any] | None = None) -> Method:
    """A method from its text, such as ``"naclip(std=4.0)"``; a method in hand is returned with the options replaced.

    Raises:
        SettingError: a text that can't be read, or an option of another type.
        UnknownNameError: no such method, or it has no such option; the message lists those that exist.
    """
    return METHODS.make(method, **(options or {}))
