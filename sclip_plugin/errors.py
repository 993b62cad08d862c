"""The errors of the package: all are `SclipError`, and each is also the built-in that a caller would catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SclipError(Exception):
    """Base of every error that the package raises on purpose: its message says what was given, and what to do."""


class UnknownNameError(SclipError, ValueError):
    """A method, tower, preset or option that does not exist."""


class SettingError(SclipError, ValueError):
    """A setting, an argument or an option of a method with a value of another type, or out of its range."""


class ArgumentTypeError(SclipError, TypeError):
    """An argument of another type than is worked on."""


class RegistrationError(SclipError, ValueError):
    """A name that is registered already."""


class UnsupportedModelError(SclipError, TypeError):
    """A model whose structure no registered tower knows."""


class LabelError(SclipError, ValueError):
    """Labels that cannot name classes: none, empty, or in a form that is not understood."""


class PictureError(SclipError, ValueError):
    """A picture that cannot be read or has an unusable shape."""


class PictureNotFoundError(PictureError, FileNotFoundError):
    """A picture's file that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])


class ShapeError(SclipError, ValueError):
    """A tensor of another shape than is worked on."""


class NotFiniteError(SclipError, ArithmeticError):
    """A model whose features are not numbers: NaN or infinite."""


class ModelLoadError(SclipError, OSError):
    """A model name that cannot be resolved to weights on this machine."""


class MissingPackageError(SclipError, ImportError):
    """What was asked for needs a package that is not installed."""


class FileFormatError(SclipError, ValueError):
    """A file that is read, and is not in the form that was expected."""


def unknown_name(kind: str, given: object, known: Iterable[str], meant: str | None = None) -> UnknownNameError:
    """The one wording for a name that is not in a registry: what was given, the nearest name (or what is known to be
    ``meant`` by it), what exists."""
    known = sorted(known)
    given = str(given) if len(str(given)) <= 80 else f"{str(given)[:79]}…"
    lower = {name.lower(): name for name in known}
    near = [meant] if meant else difflib.get_close_matches(str(given).lower(), lower, n=1)
    hint = f" Did you mean '{lower[near[0].lower()]}'?" if near else ""
    listed = known if len(known) <= 40 else [*difflib.get_close_matches(str(given), known, n=12, cutoff=0.3), "…"]
    return UnknownNameError(f"unknown {kind} '{given}'.{hint} Known: {', '.join(listed) or 'none'}.")
