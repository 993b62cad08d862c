"""``sclip label``: words for masks that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .drawing import Colors, Opacity, Style, read_colors
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option
from .pictures import MaxPixels, limit_pixels
from .settings import Asked, with_settings
from .terminal import AsJson, say


@with_settings("masks", "steps", "threshold", "refine")
def label(
    picture: Annotated[Path, typer.Argument(help="The picture.")],
    masks: Annotated[
        str,
        typer.Option(help="Source of masks: a file or folder of mask files, slic, sam:NAME, panoptic:NAME."),
    ],
    labels: Labels = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    view: Annotated[
        str,
        typer.Option(
            help="View for CLIP's image embedding: none, crop (the mask's box), cut (only the mask), blur (around it)."
        ),
    ] = "none",
    weight: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of the view; the dense features have the rest.")
    ] = 0.5,
    model: Model = DEFAULT_MODEL,
    opacity: Opacity = 0.55,
    style: Style = "fill",
    colors: Colors = None,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Give labels to the masks of a picture: of SAM, of a detector, of an annotator, or superpixels.

    Prints a line a mask and writes NAME.masks.json (for each mask its label, score, box and area, and the scores of all
    labels) and NAME.masks.png, the picture with the masks in the colours of their labels.

    Example: sclip label photo.jpg --masks slic --labels "cat, sofa, wall" --model demo
    """
    from ..draw.overlay import overlay
    from ..imaging.marks import check_replaceable, marked
    from ..imaging.pictures import read_picture
    from ..masks import find_masks, masks_of
    from ..masks.folder import read_masks
    from ..storage.files import check_writable, save_image, save_json

    limit_pixels(max_pixels)
    parsed = parse_labels_option(labels)
    asked.check_labels(parsed, named=True)
    source = None if Path(masks).is_file() else find_masks(masks)
    drawn = out / f"{picture.stem}.masks.png"
    check_replaceable(drawn)
    check_writable(out)
    looks: dict[str, Any] = {"opacity": opacity, "style": style, "colours": read_colors(colors)}
    rgb = read_picture(picture)
    given = read_masks(masks) if source is None else masks_of(source, rgb)
    encoded = make_segmenter(model, device, dtype, asked.preset, **asked.changes).encode(rgb)
    named = encoded.classify(given, parsed, view=view, weight=weight)  # type: ignore[arg-type]
    rows = named.to_dict()
    for row, scores in zip(rows, named.scores, strict=True):
        row["scores"] = dict(zip(named.labels, (float(score) for score in scores), strict=True))
        if as_json:
            say(json.dumps(row))
        else:
            left, top, right, bottom = row["box"]
            place = f"{right - left} x {bottom - top} at {left}, {top}"
            say(f"{row['mask']:>4}  {row['label']:<24} {100 * row['score']:5.1f} %  {place}")
    save_image(overlay(rgb, named.label_map(), named.labels, **looks), drawn, **marked("PNG"))
    written = {"picture": str(picture), "masks": masks, "view": view, "weight": weight, "regions": rows}
    save_json({**written, "settings": encoded.settings.plain()}, out / f"{picture.stem}.masks.json")
    if not as_json:
        say(f"{len(rows)} masks -> {drawn}")
