"""Fields of settings and of methods' options: what each may hold, and the check of a value against that.

A dataclass says with `field_of` what a field means and in which range it lies; the field's annotation says its type.
Command lines, configs and help texts are derived from the same metadata.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from .errors import SettingError

Holds = Literal["path", "model"]


def field_of(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    factory: Any = dataclasses.MISSING,
    holds: Holds | None = None,
    features: bool = False,
    **options: Any,
) -> Any:
    """A dataclass field with its meaning and range.

    Args:
        default, factory: as ``dataclasses.field`` has them.
        help: what it is, in one line.
        low, high: the smallest and the largest value, of each number where the field holds several.
        above: what the value must be larger than.
        holds: ``"path"``: a text names a file or folder; ``"model"``: it names an outside model, which may be a file.
            A server lets no visitor set such a field, and Ray's workers get its paths as absolute ones.
        features: of a setting: other values give other features, so what is kept of a picture depends on it.
        **options: of ``dataclasses.field``, such as ``repr=False``.

    Example:
        >>> import dataclasses
        >>> from sclip_plugin.fields import field_of
        >>> @dataclasses.dataclass
        ... class Options:
        ...     steps: int = field_of(0, "steps of refinement", low=0, high=1000)
        >>> Options().steps
        0
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "holds": holds, "features": features}
    if factory is not dataclasses.MISSING:
        options["default_factory"] = factory
    else:
        options["default"] = default
    return dataclasses.field(metadata=metadata, **options)


def check_fields(holder: Any, who: str) -> None:
    """Check every field of a frozen dataclass, and put values into the form that their annotation says.

    A list becomes a tuple, an integer becomes a float, a number of numpy becomes Python's. Fields whose annotation
    holds a type that is not plain (a tensor, another dataclass) are left to their owner.

    Args:
        holder: a dataclass instance, in its ``__post_init__``.
        who: what to call it in errors, such as ``"scclip"``; empty where the field's name says enough.

    Raises:
        SettingError: a value of another type or out of range; the message says what was expected.
    """
    hints = plain_hints(type(holder))  # type: ignore[arg-type]
    for field in dataclasses.fields(holder):
        if field.name in hints:
            value = getattr(holder, field.name)
            object.__setattr__(holder, field.name, checked(field.name, value, hints[field.name], field.metadata, who))


@functools.cache
def plain_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields that are made of plain types; others are left out."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = vars(sys.modules[base.__module__])
        for name, annotation in base.__dict__.get("__annotations__", {}).items():
            hints.pop(name, None)
            if isinstance(annotation, str):
                try:
                    annotation = eval(annotation, names)  # noqa: S307 - a class's own annotation, as typing resolves it
                except NameError:  # a name that only a type checker knows
                    continue
            if is_plain(annotation):
                hints[name] = annotation
    return hints


def checked(name: str, value: Any, annotation: Any, metadata: Mapping[str, Any] = types.MappingProxyType({}), who=""):
    """The value in the form that its annotation says.

    Raises:
        SettingError: it has another type, or lies out of the metadata's range.

    Example:
        >>> from sclip_plugin.fields import checked
        >>> checked("threshold", 1, float | None), checked("dilations", [8, 16], tuple[int, ...])
        (1.0, (8, 16))
    """
    try:
        converted = _converted(value, annotation)
        _check_range(converted, metadata)
    except (TypeError, ValueError, OverflowError) as error:
        given = repr(value) if len(repr(value)) <= 200 else f"{repr(value)[:200]}…"
        prefix = f"{who} got " if who else ""
        raise SettingError(f"{prefix}{name}={given}; expected {expected(annotation, metadata)}.") from error
    return converted


def expected(annotation: Any, metadata: Mapping[str, Any] = types.MappingProxyType({})) -> str:
    """What a field takes, in words: ``a number from 0 to 1, or None``.

    >>> expected(float | None, {"low": 0, "high": 1})
    'a number from 0 to 1, or None'
    """
    parts = [part for part in _parts(annotation) if part is not type(None)]
    words = " or ".join(_words(part, metadata) for part in parts)
    return words + (", or None" if type(None) in _parts(annotation) else "")


def is_plain(annotation: Any) -> bool:
    """Whether an annotation is made of numbers, text, truth values, literals and tuples of those."""
    if annotation in (int, float, bool, str, type(None)):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return True
    return origin in (Union, types.UnionType, tuple) and all(is_plain(a) for a in arguments if a is not Ellipsis)


def _parts(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _converted(value: Any, annotation: Any) -> Any:
    parts = _parts(annotation)
    if len(parts) > 1:
        if value is None and type(None) in parts:
            return None
        for part in parts:
            try:
                return _converted(value, part)
            except (TypeError, ValueError):
                continue
        raise TypeError
    origin = typing.get_origin(annotation)
    if origin is Literal:
        if value not in typing.get_args(annotation):
            raise ValueError
        return value
    if origin is tuple:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise TypeError
        values, kinds = tuple(value), typing.get_args(annotation)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(values)
        if len(values) != len(kinds):
            raise ValueError
        return tuple(_converted(v, kind) for v, kind in zip(values, kinds, strict=True))
    is_truth = isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # numpy's, without numpy
    if annotation is bool:
        if not is_truth:
            raise TypeError
        return bool(value)
    if annotation is int:
        if is_truth or not isinstance(value, numbers.Integral):
            raise TypeError
        return int(value)
    if annotation is float:
        if is_truth or not isinstance(value, numbers.Real):
            raise TypeError
        if not math.isfinite(value):
            raise ValueError
        return float(value)
    if not isinstance(value, annotation):
        raise TypeError
    return value


def _check_range(value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, above = (metadata.get(key) for key in ("low", "high", "above"))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        too_low = (low is not None and number < low) or (above is not None and number <= above)
        if too_low or (high is not None and number > high):
            raise ValueError


def _words(annotation: Any, metadata: Mapping[str, Any]) -> str:
    low, high, above = (metadata.get(key) for key in ("low", "high", "above"))
    bounds = ""
    if low is not None and high is not None:
        bounds = f" from {low} to {high}"
    elif above is not None:
        bounds = f" above {above}" + (f" and up to {high}" if high is not None else "")
    elif low is not None:
        bounds = f", {low} or more"
    elif high is not None:
        bounds = f", {high} or less"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    if annotation in names:
        return names[annotation] + (bounds if annotation in (int, float) else "")
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    kinds = {int: "whole numbers", float: "numbers", str: "texts", bool: "truth values"}
    what = kinds.get(arguments[0], "values")
    count = "a list of " if arguments[-1] is Ellipsis else f"{len(arguments)} "
    return f"{count}{what}{bounds}"
