"""Options of the commands that answer over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .pictures import limit_pixels

if TYPE_CHECKING:
    from ..integrations.serve import Limits

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
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Largest accepted picture, in pixels; default: 64 million."),
]


def limits_of(max_pixels: int | None) -> Limits:
    """The limits on requests."""
    from ..integrations.serve import Limits

    limit_pixels(max_pixels)
    return Limits() if max_pixels is None else Limits(megapixels=max_pixels / 1e6)
