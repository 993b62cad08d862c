"""The registry of steps, and how texts become steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import SettingError
from ..grammar import Parts, registering, split
from .base import PLACES, Step

STEPS = Parts("step", "sclip_plugin.steps", Step)
"""Maps a name to a `Step` subclass."""

register_step = registering(STEPS)
"""Class decorator: register a `Step` subclass under a name.

An installed package can do the same by an entry point in the group ``sclip_plugin.steps``.
"""


def list_steps() -> tuple[str, ...]:
    """Names of all steps, including those of entry points.

    Example:
        >>> import sclip_plugin as sp
        >>> {"lposs", "pamr", "vote"} <= set(sp.list_steps())
        True
    """
    return STEPS.names()


def make_step(step: str | Step) -> Step:
    """A step from its text, such as ``"closing(3)"``; a `Step` object is returned unchanged.

    Raises:
        SettingError: the text can't be read, or an option has the wrong type.
        UnknownNameError: the step or the option does not exist.
    """
    return STEPS.make(step)


def listed(steps: Any) -> tuple[str | Step, ...]:
    """Steps as settings hold them: texts, or `Step` objects that have no text.

    Args:
        steps: a text with commas between steps, one step, or an iterable of steps.

    Raises:
        SettingError: wrong order; expected patches before pixels before labels.
    """
    if steps is None:
        return ()
    if isinstance(steps, str):
        steps = split(steps)
    given = tuple(steps) if isinstance(steps, Iterable) and not isinstance(steps, Step) else (steps,)
    made = [make_step(step) for step in given]
    for before, after in zip(made, made[1:], strict=False):
        if PLACES.index(before.on) > PLACES.index(after.on):
            raise SettingError(
                f"the step {after.called()!r} works on {after.on}, and stands behind {before.called()!r}, which works "
                f"on {before.on}; expected the order patches, pixels, labels: put {after.called()!r} first."
            )
    return tuple(STEPS.canonical(step) for step in made)
