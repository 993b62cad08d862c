"""The registry of refinements, and how a text becomes one."""

from __future__ import annotations

from ..registry import Registry, made_of_text
from .base import Refinement

REFINEMENTS: Registry[type[Refinement]] = Registry("refinement", "sclip_plugin.refinements")
"""Maps a name to a `Refinement` subclass."""


def register_refinement(name: str, *, replace: bool = False):
    """Class decorator: make a `Refinement` subclass known by a name.

    An installed package can do the same with an entry point in the group ``sclip_plugin.refinements``.
    """
    return REFINEMENTS.register(name, replace=replace)


def list_refinements() -> tuple[str, ...]:
    """Names of all refinements, those of installed entry points included.

    Example:
        >>> from sclip_plugin.refinements import list_refinements
        >>> "sam" in list_refinements()
        True
    """
    return REFINEMENTS.names()


def make_refinement(refinement: str | Refinement) -> Refinement:
    """A refinement from its text, ``"name"`` or ``"name(option=value, …)"``; one in hand is returned as it is.

    Raises:
        SettingError: not such a text, or an option of another type.
        UnknownNameError: no such refinement or option.
    """
    return refinement if isinstance(refinement, Refinement) else made_of_text(REFINEMENTS, refinement)
