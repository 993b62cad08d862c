"""``sclip search``: the pictures of an index that hold something, and where in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .index import ModelOfIndex
from .options import Device, given, make_segmenter, parse_labels_option
from .settings import setting
from .terminal import AsJson, say


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that 'sclip index' made.")],
    words: Annotated[
        str,
        typer.Argument(
            help="What to find: \"red umbrella\". Commas join words that must all be present; '|' joins synonyms."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 20,
    without: Annotated[str | None, typer.Option(help="Words that must be absent, in the same form.")] = None,
    under: Annotated[
        str | None, typer.Option(help="Search only this folder of the collection, or this pattern of paths.")
    ] = None,
    by: Annotated[
        Literal["place", "picture"],
        typer.Option(help="Rank by the most similar region, or by the embedding of the whole picture."),
    ] = "place",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a contact sheet of the pictures with their places."),
    ] = None,
    templates: Annotated[str | None, setting("templates")] = None,
    model: ModelOfIndex = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Find pictures by words, each with its place.

    Prints one line per picture, best first: score, box of the first word's place, path.

    Example: sclip search photos.index "red umbrella" --without dog --out found.png
    """
    from ..errors import SettingError
    from ..files import image_format, save_image
    from ..imaging.marks import save_options
    from ..index.collection import Index
    from ..index.sheet import contact_sheet
    from ..index.store import IndexStore

    if out is not None:
        image_format(out)
    asked, absent = parse_labels_option(words), None if without is None else parse_labels_option(without)
    named = IndexStore(folder).made_by["named"]
    if not (name := model or named.get("model")):
        raise SettingError(f"the index {folder} does not say the name of its model; give it as --model.")
    segmenter = make_segmenter(name, device, named.get("dtype"))
    index = Index(folder, segmenter)
    hits = index.search(asked or [], top, without=absent, under=under, by=by, **given(templates=templates))
    for hit in hits:
        if as_json:
            say(json.dumps(hit.to_dict()))
        else:
            left, top_, right, bottom = hit.box
            say(f"{hit.score:6.3f}  {f'{right - left} x {bottom - top_} at {left}, {top_}':<26} {hit.path}")
    if out is not None and hits:
        title = words if without is None else f"{words} without {without}"
        sheet = contact_sheet(hits, title)
        save_image(sheet, out, **save_options(image_format(out), sheet.size))
