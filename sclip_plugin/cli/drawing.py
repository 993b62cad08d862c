"""Options that say how pictures are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..draw.colours import Colour

Opacity = Annotated[
    float, typer.Option("--opacity", min=0, max=1, help="Of the colours in overlays.", rich_help_panel="Output")
]
Style = Annotated[
    Literal["fill", "outline"],
    typer.Option("--style", help="Of overlays: coloured regions, or their outlines only.", rich_help_panel="Output"),
]
Colors = Annotated[
    Path | None,
    typer.Option(
        "--colors",
        help="YAML or JSON file of colours by label: 'cat: \"#e69f00\"'; others keep their own.",
        rich_help_panel="Output",
    ),
]
PictureFormat = Annotated[
    Literal["png", "jpg", "webp"],
    typer.Option(
        "--picture-format",
        help="Of overlays and heat maps: PNG is exact, the others are smaller.",
        rich_help_panel="Output",
    ),
]
Stretch = Annotated[
    bool,
    typer.Option(
        "--stretch",
        help="Heat maps go from a picture's lowest score to its highest, not from 0 to 1.",
        rich_help_panel="Output",
    ),
]
MinArea = Annotated[
    int,
    typer.Option(
        "--min-area",
        min=0,
        help="Regions of fewer pixels take the label of what surrounds them; 0: none.",
        rich_help_panel="Output",
    ),
]


def read_colors(path: Path | None) -> dict[str, Colour]:
    """What --colors names; nothing where it was not given."""
    from ..draw.colours import read_colours

    return {} if path is None else read_colours(path)
