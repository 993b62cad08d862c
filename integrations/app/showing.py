"""Pieces of HTML that the page shows, and how its events wait for each other."""

from __future__ import annotations

import html
from typing import Any

from sclip_plugin.draw.colours import colours_of, is_neutral
from sclip_plugin.draw.overlay import percent
from sclip_plugin.segment.segmentation import Segmentation

from .page import Place

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "page", "concurrency_limit": 1, "api_visibility": "private"}
"""Events are answered in the order in which they came, so that no answer overtakes a later one; and one picture is
decoded at a time."""


def status_html(text: str, wrong: bool = False) -> str:
    return f'<div class="sclip-status{" wrong" if wrong else ""}">{html.escape(text)}</div>'


def legend_html(result: Segmentation) -> str:
    """The labels that occur, the largest first, with their colours and shares."""
    colours = dict(zip(result.labels, colours_of(result.labels), strict=True))
    shares = sorted(((share, label) for label, share in result.areas().items() if share), reverse=True)
    entries = []
    for share, label in shares:
        colour = "transparent" if is_neutral(label) else "rgb({}, {}, {})".format(*colours[label])
        entries.append(f'<span><i style="background: {colour}"></i>{html.escape(label)} {percent(share)}</span>')
    return f'<div class="sclip-legend">{"".join(entries)}</div>'


def place_html(found: Place, x: int, y: int) -> str:
    """The region that was clicked, and the best words at that pixel."""
    best = ", ".join(f"{html.escape(word)} {100 * score:.0f} %" for word, score in found.best)
    name = "no label" if found.label is None else html.escape(found.label)
    return f"<b>{name}</b>, {100 * found.area:.1f} % of the picture, is selected. At {x}, {y}: {best}."
