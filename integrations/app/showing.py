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
    """The labels that occur, the largest first, with their colours and shares; then, in grey, those that are absent.

    Where presence is known, a bar under each label shows it.
    """
    colours = dict(zip(result.labels, colours_of(result.labels), strict=True))
    entries = []
    for row in sorted(result.rows(), key=lambda row: -row["area"]):
        label, share, there = str(row["label"]), float(row["area"]), row.get("presence")
        if not share and there is None:
            continue
        colour = "transparent" if not share or is_neutral(label) else "rgb({}, {}, {})".format(*colours[label])
        said, bar = percent(share) if share else "hidden by others", ""
        if there is not None:
            said = said if share or there >= 0.5 else "not there"
            bar = f'<meter min="0" max="1" value="{there:.3f}" title="present: {there:.0%}"></meter>'
        kind = "" if share else ' class="absent"'
        entries.append(f'<span{kind}><i style="background: {colour}"></i>{html.escape(label)} {said}{bar}</span>')
    return f'<div class="sclip-legend">{"".join(entries)}</div>'


def place_html(found: Place, x: int, y: int) -> str:
    """The region that was clicked, and the best words at that pixel."""
    best = ", ".join(f"{html.escape(word)} {100 * score:.0f} %" for word, score in found.best)
    name = "no label" if found.label is None else html.escape(found.label)
    return f"<b>{name}</b>, {100 * found.area:.1f} % of the picture, is selected. At {x}, {y}: {best}."
