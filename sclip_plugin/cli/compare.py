"""``sclip compare``: one picture, several methods."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .drawing import Colors, Opacity, Style, read_colors
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option
from .pictures import MaxPixels, NamedPicture, limit_pixels
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, tell


@with_settings("method", "masks")
def compare(
    picture: Annotated[str, typer.Argument(help="The picture: a file or a URL.")],
    labels: Labels = None,
    methods: Annotated[
        str, typer.Option(help="Methods between commas, such as 'csa, naclip(std=4)'; 'all' for all methods.")
    ] = "vanilla,csa,clearclip,naclip,resclip",
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    model: Model = DEFAULT_MODEL,
    opacity: Opacity = 0.55,
    style: Style = "fill",
    colors: Colors = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Compare methods on one picture, side by side, each with its time.

    Example: sclip compare photo.jpg --labels "cat, sofa" --methods csa,clearclip,naclip,resclip --model demo
    """
    from ..draw import overlay as drawing
    from ..draw import sheet
    from ..grammar import split
    from ..imaging.marks import check_replaceable, marked
    from ..imaging.pictures import read_picture
    from ..methods import make_method, methods_alone
    from ..storage.files import check_writable, image_format, save_image

    limit_pixels(max_pixels)
    names = [*methods_alone()] if methods == "all" else split(methods)
    for name in names:
        asked.settings().changed(method=name)  # what is misspelt is said before a model is loaded
    named = read_colors(colors)
    parsed = parse_labels_option(labels)
    asked.check_labels(parsed)
    # What would fail at the end is found out now.
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give the name of a picture, such as {out / 'compare.png'}.")
    mark = marked(image_format(out))
    check_replaceable(out)
    check_writable(out.parent)
    with NamedPicture.of(picture).open() as file:
        shown = read_picture(file)
    segmenter = make_segmenter(model, device, dtype, asked.preset, **asked.changes)
    segmenter(shown, parsed)  # the text bank and the first-call costs are no method's own
    panels = [("picture", shown)]
    rows, maps = [], []
    for name in names:
        make_method(name).guides(segmenter.tower)  # nor is loading an outside model
        start = time.perf_counter()
        result = segmenter(shown, parsed, method=name)
        seconds = time.perf_counter() - start
        if not quiet:
            tell(f"{name}: {seconds:.2f} s")
        shown_as = result.overlay(opacity=opacity, style=style, legend=False, colours=named)
        panels.append((f"{name}, {seconds:.2f} s", shown_as))
        maps.append(result.label_map)
        rows.append({"method": name, "seconds": seconds, "areas": result.areas()})
    legend = drawing.legend_of(maps, result.labels, named)
    save_image(sheet.side_by_side(panels, legend=legend), out, **mark)
    if as_json:
        say(json.dumps({"picture": picture, "file": str(out), "methods": rows}))
    elif not quiet:
        say(out)
