"""``sclip compare``: one picture, several methods."""

from __future__ import annotations

import json
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
from .pictures import MaxPixels, NamedPicture, limit_pixels
from .terminal import AsJson, Opacity, Quiet, say, tell


def compare(
    picture: Annotated[str, typer.Argument(help="The picture: a file or a URL.")],
    labels: Labels,
    methods: Annotated[str, typer.Option(help="Methods between commas; 'all' for every one.")] = (
        "vanilla,csa,clearclip,naclip,resclip"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    model: Model = DEFAULT_MODEL,
    background: Background = False,
    refine: Refine = False,
    opacity: Opacity = 0.55,
    window: Window = None,
    resize: Resize = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Write one picture with several methods side by side, each with its time.

    Example: sclip compare photo.jpg --labels "cat, sofa" --methods csa,clearclip,naclip,resclip --model demo
    """
    from ..draw import overlay as drawing
    from ..draw import sheet
    from ..files import check_writable, image_format, save_image
    from ..imaging.pictures import read_picture
    from ..methods import list_methods, make_method
    from ..segment.results import png_info
    from ..text.labels import parse_labels

    limit_pixels(max_pixels)
    names = list_methods() if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    chosen = [make_method(name) for name in names]
    parsed = parse_labels_option(labels)
    parse_labels(parsed, background)
    # What would fail at the end is found out now.
    marked = {"pnginfo": png_info()} if image_format(out) == "PNG" else {}
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give the name of a picture, such as {out / 'compare.png'}.")
    check_writable(out.parent)
    with NamedPicture.of(picture).open() as file:
        shown = read_picture(file)
    settings = given(background=background, window=window, resize_short_side=resize)
    if refine:
        settings["pamr_steps"] = PAMR_STEPS
    segmenter = make_segmenter(model, "csa", device)
    segmenter(shown, parsed, **settings)  # the text bank and the first-call costs are no method's own
    panels = [("picture", shown)]
    rows = []
    for name, method in zip(names, chosen, strict=True):
        start = time.perf_counter()
        result = segmenter(shown, parsed, method=method, **settings)
        seconds = time.perf_counter() - start
        if not quiet:
            tell(f"{name}: {seconds:.2f} s")
        panels.append((f"{name}, {seconds:.2f} s", result.overlay(opacity=opacity, legend=False)))
        rows.append({"method": name, "seconds": seconds, "areas": result.areas()})
    colours = drawing.palette(len(result.labels))
    legend = [(label, tuple(int(v) for v in colours[i])) for i, label in enumerate(result.labels)]
    save_image(sheet.side_by_side(panels, legend=legend), out, **marked)
    if as_json:
        say(json.dumps({"picture": picture, "file": str(out), "methods": rows}))
    elif not quiet:
        say(out)
