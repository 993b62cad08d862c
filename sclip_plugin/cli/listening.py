"""Options of the commands that answer over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .pictures import limit_pixels

if TYPE_CHECKING:
    from ..integrations.serve import Limits
    from ..segment.segmenter import Segmenter

Host = Annotated[str, typer.Option(help="Address to listen at; by default only this machine can reach it.")]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Also answer requests to this host name, such as a proxy's; may be repeated. By default only localhost "
        "and the address of the connection are answered.",
    ),
]
Lists = Annotated[
    list[str] | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="A list of words that visitors may name with, as @auto:FILE in these letters; may be repeated.",
        rich_help_panel="Words",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Largest accepted picture, in pixels; default: 64 million."),
]


def limits_of(max_pixels: int | None) -> Limits:
    """The limits on requests."""
    from ..integrations.serve import Limits

    limit_pixels(max_pixels)
    return Limits() if max_pixels is None else Limits(megapixels=max_pixels / 1e6)


def allow_lists(segmenter: Segmenter, lists: list[str] | None) -> None:
    """Let visitors name with these lists, which are read now: a wrong one ends the start, not a visit."""
    from ..text.wordlist import Auto

    for path in lists or ():
        Auto(path).words()
    segmenter.named_files = frozenset(lists or ())
