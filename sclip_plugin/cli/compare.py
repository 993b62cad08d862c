"""``sclip compare``: one picture, several methods."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .drawing import Colors, Opacity, Style, read_colors
from .options import (
    Background,
    Changes,
    Device,
    Dtype,
    Labels,
    Model,
    PresetName,
    Refine,
    Resize,
    Stride,
    Templates,
    Window,
    check_labels,
    chosen_settings,
    make_segmenter,
    parse_changes,
    parse_labels_option,
)
from .pictures import MaxPixels, NamedPicture, limit_pixels
from .terminal import AsJson, Quiet, say, tell


def compare(
    picture: Annotated[str, typer.Argument(help="The picture: a file or a URL.")],
    labels: Labels = None,
    methods: Annotated[str, typer.Option(help="Methods between commas; 'all' for every one.")] = (
        "vanilla,csa,clearclip,naclip,resclip"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    model: Model = DEFAULT_MODEL,
    preset: PresetName = None,
    background: Background = False,
    refine: Refine = False,
    opacity: Opacity = 0.55,
    style: Style = "fill",
    colors: Colors = None,
    window: Window = None,
    stride: Stride = None,
    resize: Resize = None,
    templates: Templates = None,
    change: Changes = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Write one picture with several methods side by side, each with its time.

    Example: sclip compare photo.jpg --labels "cat, sofa" --methods csa,clearclip,naclip,resclip --model demo
    """
    from ..draw import overlay as drawing
    from ..draw import sheet
    from ..files import check_writable, image_format, save_image
    from ..imaging.marks import marked
    from ..imaging.pictures import read_picture
    from ..methods import methods_alone
    from ..settings import setting_names

    limit_pixels(max_pixels)
    names = [*methods_alone()] if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    options = parse_changes(change or [])
    shared = {name: options.pop(name) for name in list(options) if name in setting_names()}
    settings = chosen_settings(
        None, preset, shared, refine, background=background or None, window=window, stride=stride,
        resize_short_side=resize, templates=templates,
    )  # fmt: skip
    own = _options_of_each(names, options)
    named = read_colors(colors)
    parsed = parse_labels_option(labels)
    check_labels(parsed, preset, settings)
    # What would fail at the end is found out now.
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give the name of a picture, such as {out / 'compare.png'}.")
    mark = marked(image_format(out))
    check_writable(out.parent)
    with NamedPicture.of(picture).open() as file:
        shown = read_picture(file)
    segmenter = make_segmenter(model, device, dtype, preset, **settings)
    segmenter(shown, parsed)  # the text bank and the first-call costs are no method's own
    panels = [("picture", shown)]
    rows, maps = [], []
    for name in names:
        start = time.perf_counter()
        result = segmenter(shown, parsed, method=name, **own[name])
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


def _options_of_each(names: list[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each method those of the options that it has; what none of them has, and what is misspelt, is said."""
    from ..errors import unknown_name
    from ..methods import make_method

    has = {name: {f.name for f in dataclasses.fields(make_method(name)) if f.init} for name in names}
    for key in options:
        if not any(key in fields for fields in has.values()):
            raise unknown_name("setting", key, set().union(*has.values()))
    own = {name: {key: value for key, value in options.items() if key in has[name]} for name in names}
    for name in names:
        make_method(name, own[name])
    return own
