"""The registry of post-steps, and how a text becomes one."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from ..errors import SettingError, unknown_name
from ..registry import Registry
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
    if isinstance(step, PostStep):
        return step
    try:
        call = ast.parse(step, mode="eval").body
        if isinstance(call, ast.Name):
            call = ast.Call(call, [], [])
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        name = call.func.id
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (TypeError, ValueError, SyntaxError) as error:
        raise SettingError(
            f"post-step {step!r} can't be read; expected a name such as 'lposs', or a name with options, such as "
            "'lposs(alpha=0.9)'."
        ) from error
    known = [field.name for field in dataclasses.fields(STEPS[name])]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return STEPS[name](**options)


def text_of(step: PostStep) -> str | PostStep:
    """The text that `make_step` reads back, with the options that differ from their defaults; the step itself where
    an option is no plain value."""
    said = []
    for field in dataclasses.fields(step):
        value: Any = getattr(step, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is not default and value != default:
            if not _is_literal(value):
                return step
            said.append(f"{field.name}={value!r}")
    if type(step) not in STEPS:
        return step
    return f"{step.name}({', '.join(said)})" if said else step.name


def _is_literal(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_literal(entry) for entry in value)
    return value is None or isinstance(value, (str, int, float, bool))
