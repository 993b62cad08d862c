"""The one text form of everything that is chosen by name, and `Part`, the dataclass behind each such name.

name                    csa
name(option=value, …)   naclip(std=4.0)
name(value)             threshold(0.4): the value of the first option
name:model              proxyclip:facebook/dino-vitb8: the value of the first option that names a model or a path
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .errors import ArgumentTypeError, RegistrationError, SettingError, unknown_name
from .fields import check_fields
from .registry import Registry

P = TypeVar("P", bound="Part")
_FORM = re.compile(r"(?P<name>[\w.-]+)(?::(?P<model>.+?))?(?:\((?P<options>.*)\))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that is chosen by name: a method, a step, a source of masks. Subclass it as a frozen dataclass.

    The fields of a subclass are its options. Each is checked against its annotation and the range in `field_of`.

    Class attributes:
        name: the name in the registry; registering sets it.
        summary, source: one line each: what it does, and the paper.

    Raises:
        SettingError: an option of another type or out of range.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    bound: ClassVar[frozenset[str]] = frozenset()
    """Fields that are filled in while the part runs, such as the words' embeddings; they are no options."""

    def __post_init__(self) -> None:
        check_fields(self, self.called())

    @classmethod
    def called(cls) -> str:
        """The registered name, or the name of the class."""
        return cls.name or cls.__name__

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """The fields that a caller sets."""
        return [f for f in dataclasses.fields(cls) if f.init and f.name not in cls.bound]

    def changed_options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in self.options() if not _is_default(f, getattr(self, f.name))}

    def as_text(self) -> str | None:
        """The text that makes this part again; None where an option has no text, such as a model in hand.

        Example:
            >>> from sclip_plugin.methods import make_method
            >>> make_method("naclip(std=4)").as_text()
            'naclip(std=4.0)'
        """
        said = [(key, _literal(value)) for key, value in self.changed_options().items()]
        if not self.name or any(value is None for _, value in said):
            return None
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in said)})" if said else self.name

    def identity(self) -> Any:
        """All that the part is, in values that JSON holds: models and tensors by a hash of their values."""
        options = {f.name: plain_identity(getattr(self, f.name)) for f in self.options()}
        return {"kind": f"{type(self).__module__}.{type(self).__qualname__}", **options}

    def named_files(self) -> Iterator[tuple[str, str]]:
        """(option, text) of the options that name a file, a folder or a model, those of parts inside included."""
        for field in self.options():
            value = getattr(self, field.name)
            if isinstance(value, Part):
                yield from value.named_files()
            elif field.metadata.get("holds") and isinstance(value, str) and value:
                yield field.name, value

    def with_absolute_paths(self: P) -> P:
        """The same with the absolute paths of the files and folders that options name."""
        changes: dict[str, Any] = {}
        for field in self.options():
            value = getattr(self, field.name)
            if isinstance(value, Part):
                changes[field.name] = value.with_absolute_paths()
            elif field.metadata.get("holds") and isinstance(value, str) and value:
                changes[field.name] = absolute(value)
        return dataclasses.replace(self, **changes) if changes else self


def absolute(text: str) -> str:
    """A text that names an existing file or folder as its absolute path; others as they are.

    What stands before the last ``@`` or ``:`` of a text, as in ``mae@weights``, is kept.
    """
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve())
    for mark in "@:":
        kind, found, rest = text.rpartition(mark)
        if found and rest and Path(rest).expanduser().exists():
            return f"{kind}{mark}{Path(rest).expanduser().resolve()}"
    return text


def plain_identity(value: Any) -> Any:
    """A value of an option or a setting for JSON: parts by their own identity, models and tensors by a hash."""
    from .storage.fingerprint import fingerprint, identity_of

    if isinstance(value, Part):
        return value.identity()
    model: Any = value if hasattr(value, "state_dict") else getattr(value, "module", None)  # a guide's
    if hasattr(model, "state_dict"):
        return f"{type(model).__qualname__} {identity_of(model)}"
    if hasattr(value, "untyped_storage"):
        return f"tensor {fingerprint([value])}"
    if isinstance(value, (tuple, list)):
        return [plain_identity(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else repr(value)


def parse(text: str, kind: str = "part") -> tuple[str, str | None, list[Any], dict[str, Any]]:
    """A text as (name, model, positional values, options).

    Raises:
        SettingError: not of one of the forms above.

    Example:
        >>> from sclip_plugin.grammar import parse
        >>> parse("naclip(std=4.0)"), parse("sam:facebook/sam-vit-base")
        (('naclip', None, [], {'std': 4.0}), ('sam', 'facebook/sam-vit-base', [], {}))
    """
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if found is None:
            raise ValueError
        call = ast.parse(f"f({found['options'] or ''})", mode="eval").body
        # One pair of brackets around the whole: neither f()() nor f() + f().
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) <= 1):
            raise ValueError
        if len({keyword.arg for keyword in call.keywords} - {None}) != len(call.keywords):
            raise ValueError  # one twice, or **
        values = [ast.literal_eval(value) for value in call.args]
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise SettingError(
            f"{kind} {text!r:.200} can't be read; expected NAME, NAME(option=value), NAME(value) or NAME:MODEL, with "
            "texts in quotes inside the brackets."
        ) from error
    return found["name"], found["model"], values, options


def split(text: str) -> list[str]:
    """A list of parts in one text, at the commas that stand in no brackets and no quotes.

    >>> split("lposs(alpha=0.9, k=40), pamr, closing(3)")
    ['lposs(alpha=0.9, k=40)', 'pamr', 'closing(3)']
    """
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


class Parts(Registry[Any]):
    """A registry of `Part` subclasses, whose entries are made from texts.

    Args:
        kind: what one is called in errors.
        entry_point_group: where installed packages offer more of them.
        base: the class that all are subclasses of.
    """

    def __init__(self, kind: str, entry_point_group: str, base: type[Part]) -> None:
        super().__init__(kind, entry_point_group)
        self.base = base

    def make(self, given: Any, **options: Any) -> Any:
        """A part from its text; one in hand is returned as it is, with ``options`` replaced.

        Raises:
            ArgumentTypeError: neither a text nor a part of this kind.
            SettingError: a text that can't be read, or an option of another type.
            UnknownNameError: no such name or option.
        """
        if isinstance(given, self.base):
            self._check_options(type(given), options)
            return dataclasses.replace(given, **options) if options else given
        if not isinstance(given, str):
            raise ArgumentTypeError(
                f"a {self.kind} was given as {type(given).__name__}; expected a text such as 'NAME' or "
                f"'NAME(option=value)', or a {self.base.__name__}."
            )
        name, model, values, said = parse(given, self.kind)
        cls = self[name]
        short = [(_first_option(cls), value) for value in values]
        if model is not None:
            short.append((_model_option(cls), int(model) if model.isdecimal() else model))
        for option, value in short:
            if option in said:
                raise SettingError(f"{self.kind} {given!r:.200} gives {option} twice; expected it once.")
            said[option] = value
        said |= options
        self._check_options(cls, said)
        for field in cls.options():
            if field.name not in said and field.default is MISSING and field.default_factory is MISSING:
                raise SettingError(f"{self.kind} {name} needs the option {field.name}: '{name}({field.name}=…)'.")
        return cls(**said)

    def canonical(self, given: Any) -> Any:
        """A part's text, or the part itself where it has none: what settings hold."""
        part = self.make(given)
        text = part.as_text()
        return part if text is None or type(part) not in self else text

    def _check_options(self, cls: type[Part], options: dict[str, Any]) -> None:
        known = [field.name for field in cls.options()]
        for option in options:
            if option not in known and option not in cls.bound:
                raise unknown_name(f"option of {cls.called()}", option, known)


def registering(parts: Parts) -> Callable[..., Callable[[type[P]], type[P]]]:
    """The decorator that registers a class in ``parts``."""

    @functools.wraps(parts.register)
    def register(name: str, *, replace: bool = False, aliases: tuple[str, ...] = ()) -> Callable[[type[P]], type[P]]:
        def add(cls: type[P]) -> type[P]:
            if not (isinstance(cls, type) and issubclass(cls, parts.base)):
                raise RegistrationError(f"{cls!r} is no {parts.base.__name__}; expected a subclass of it.")
            return Registry.register(parts, name, replace=replace, aliases=aliases)(cls)

        return add

    return register


def _first_option(cls: type[Part]) -> str:
    """The first option that the class itself has, or its base where it has none."""
    names = [field.name for field in cls.options()]
    if not names:
        raise SettingError(f"{cls.called()} has no options; expected its name alone.")
    return next((name for name in cls.__dict__.get("__annotations__", {}) if name in names), names[0])


def _model_option(cls: type[Part]) -> str:
    return next((f.name for f in cls.options() if f.metadata.get("holds")), None) or _first_option(cls)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(value, Part):
        return isinstance(default, str) and value.as_text() == default
    same = value is default or (type(value).__eq__ is not object.__eq__ and not _is_array(value) and value == default)
    return bool(same)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _literal(value: Any) -> str | None:
    if isinstance(value, Part):
        text = value.as_text()
        return None if text is None else repr(text)
    if isinstance(value, (tuple, list)):
        parts = [_literal(entry) for entry in value]
        if any(part is None for part in parts):
            return None
        return f"({', '.join(map(str, parts))}{',' if len(parts) == 1 else ''})"
    return repr(value) if value is None or isinstance(value, (str, int, float, bool)) else None
