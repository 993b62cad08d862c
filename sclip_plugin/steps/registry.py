"""The registry of post-steps, and how a text becomes one."""

from __future__ import annotations

from ..registry import Registry, made_of_text
from .base import PostStep

STEPS: Registry[type[PostStep]] = Registry("post-step", "sclip_plugin.steps")
"""Maps a name to a `PostStep` subclass."""


def register_step(name: str, *, replace: bool = False):
    """Class decorator: make a `PostStep` subclass known by a name.

    An installed package can do the same with an entry point in the group ``sclip_plugin.steps``.
    """
    return STEPS.register(name, replace=replace)


def list_steps() -> tuple[str, ...]:
    """Names of all post-steps, those of installed entry points included."""
    return STEPS.names()


def make_step(step: str | PostStep) -> PostStep:
    """A step from its text, ``"name"`` or ``"name(option=value, …)"``; a step in hand is returned as it is.

    Raises:
        SettingError: not such a text, or an option of another type.
        UnknownNameError: no such step or option.
    """
    return step if isinstance(step, PostStep) else made_of_text(STEPS, step)
