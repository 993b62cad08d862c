"""``sclip geotiff``: a label map with its place on earth, of a picture of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say


@with_settings()
def geotiff(
    picture: Annotated[Path, typer.Argument(help="The GeoTIFF, or another file that rasterio reads.")],
    labels: Labels = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The GeoTIFF to write.")] = Path("labels.tif"),
    model: Model = DEFAULT_MODEL,
    tile: Annotated[int, typer.Option(min=1, help="Side of a tile in pixels, without its margin.")] = 1024,
    margin: Annotated[int, typer.Option(min=0, help="Margin around a tile in pixels, which hides tile borders.")] = 128,
    bands: Annotated[
        str | None,
        typer.Option(
            help="Bands for red, green and blue, such as 4,3,2; or one band for grey. Default: as the file tells."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Segment a GeoTIFF of any size by tiles, in bounded memory, and write a GeoTIFF of labels in the same place.

    Each tile is resized as a picture is (--resize); what a pixel shows on the ground decides which tile size suits.

    Example: sclip geotiff scene.tif --labels "forest, water, road, house" --out labels.tif --tile 512
    """
    from ..errors import SettingError
    from ..segment.geotiff import segment_geotiff
    from ..storage.files import check_writable

    parsed = parse_labels_option(labels)
    asked.check_labels(parsed)
    if bands is not None and not all(part.strip().isdigit() for part in bands.split(",")):
        raise SettingError(f"--bands {bands}: expected numbers between commas, such as 4,3,2.")
    chosen = None if bands is None else [int(part) for part in bands.split(",")]
    check_writable(out.parent)
    segmenter = make_segmenter(model, device, dtype, asked.preset, **asked.changes)
    asked_for = {"present": asked.changes["present"]} if "present" in asked.changes else {}
    shares = segment_geotiff(segmenter, picture, out, parsed, tile=tile, margin=margin, bands=chosen, **asked_for)
    if as_json:
        say(json.dumps({"picture": str(picture), "file": str(out), "labels": shares}))
    elif not quiet:
        listed = sorted(shares.items(), key=lambda entry: -entry[1])
        words = ", ".join(f"{label} {100 * share:.0f} %" for label, share in listed if share >= 0.005)
        say(f"{picture}: {words or 'nothing labelled'} -> {out}")
