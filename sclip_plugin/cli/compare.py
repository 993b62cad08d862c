"""``sclip compare``: one picture, several methods."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL, PAMR_STEPS
from .options import (
    Background,
    Device,
    Labels,
    Model,
    Refine,
    Resize,
    Window,
    given,
    make_segmenter,
    parse_labels_option,
)


def compare(
    picture: Annotated[str, typer.Argument(help="The picture.")],
    labels: Labels,
    methods: Annotated[str, typer.Option(help="Methods between commas; 'all' for every one.")] = (
        "vanilla,csa,clearclip,naclip,resclip"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    model: Model = DEFAULT_MODEL,
    background: Background = False,
    refine: Refine = False,
    window: Window = None,
    resize: Resize = None,
    device: Device = None,
) -> None:
    """Write one picture with several methods side by side, each with its time.

    Example: sclip compare photo.jpg --labels "cat, sofa" --methods csa,clearclip,naclip,resclip --model demo
    """
    from ..draw import overlay as drawing
    from ..draw import sheet
    from ..files import save_image
    from ..imaging.pictures import read_picture
    from ..methods import list_methods, make_method

    names = list_methods() if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        make_method(name)  # a misspelt one is said before a model is fetched
    parsed = parse_labels_option(labels)
    settings = given(background=background, window=window, resize_short_side=resize)
    if refine:
        settings["pamr_steps"] = PAMR_STEPS
    segmenter = make_segmenter(model, "csa", device, changes=settings)
    shown = read_picture(picture)
    segmenter(shown, parsed)  # the text bank and the first-call costs are no method's own
    panels = [("picture", shown)]
    for name in names:
        start = time.perf_counter()
        result = segmenter(shown, parsed, method=name)
        seconds = time.perf_counter() - start
        panels.append((f"{name}, {seconds:.2f} s", result.overlay(legend=False)))
    colours = drawing.palette(len(result.labels))
    legend = [(label, tuple(int(v) for v in colours[i])) for i, label in enumerate(result.labels)]
    save_image(sheet.side_by_side(panels, legend=legend), out)
    typer.echo(str(out))
