"""What is printed: results on standard output, all else on standard error, and nothing that steers a terminal."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.", rich_help_panel="Output")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print results as JSON, one object a line.", rich_help_panel="Output")
]

PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
"""For rich: text as it is."""


def shown(text: object) -> str:
    """Text with all that a terminal would obey, or could not print, written out: escapes, directions, surrogates.

    Example:
        >>> shown("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in str(text))


def say(*lines: object) -> None:
    """A result, on standard output: a line each, whatever a name in it holds."""
    for line in lines:
        typer.echo(shown(line))


def tell(text: object) -> None:
    """News and complaints, on standard error."""
    typer.echo("\n".join(shown(line) for line in str(text).split("\n")), err=True)


def _is_harmless(character: str) -> bool:
    # Cc: control, Cs: half of a pair, Zl and Zp: line ends. Of Cf only what turns the direction of text, since joiners
    # are part of words and of emoji.
    category = unicodedata.category(character)
    if category == "Cf":
        return not ("\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069")
    return category not in ("Cc", "Cs", "Zl", "Zp")
