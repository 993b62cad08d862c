"""``sclip search``: the pictures of an index that hold something, and where in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .index import ModelOfIndex
from .options import Device, Taught, given, make_segmenter, parse_labels_option, teach
from .settings import setting
from .terminal import AsJson, say, tell

if TYPE_CHECKING:
    from ..index import Hit, Index


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that 'sclip index' made.")],
    words: Annotated[
        str | None,
        typer.Argument(
            help="What to find: \"red umbrella\". Commas join words that must all be present; '|' joins synonyms."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="PICTURE[#X,Y]",
            help="Search by example: pictures like this one, or with a region like the one at its pixel X,Y.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 20,
    without: Annotated[str | None, typer.Option(help="Words that must be absent, in the same form.")] = None,
    under: Annotated[
        str | None, typer.Option(help="Search only this folder of the collection, or this pattern of paths.")
    ] = None,
    by: Annotated[
        Literal["place", "picture"] | None,
        typer.Option(
            help="Rank by the most similar region, or by the embedding of the whole picture. Default: picture for "
            "--like PICTURE alone, else place."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a contact sheet of the pictures with their places."),
    ] = None,
    templates: Annotated[str | None, setting("templates")] = None,
    labels: Taught = None,
    model: ModelOfIndex = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Find pictures by words or by an example, each with its place.

    Prints one line per picture, best first: score, box of the first word's place, path from the current folder.

    Exit code: 0; 1 if pictures of the sheet are missing; 2 if nothing could start.

    Example: sclip search photos.index "red umbrella" --without dog --out found.png
    """
    from ..errors import SettingError
    from ..imaging.marks import check_replaceable
    from ..index.collection import Index, named_by
    from ..index.store import IndexStore
    from ..storage.files import image_format

    if words is None and like is None:
        raise SettingError("nothing to find was given; expected words after the index, or --like PICTURE.")
    if out is not None:
        image_format(out)
        check_replaceable(out)
    asked = parse_labels_option(words, "WORDS")
    absent = parse_labels_option(without, "--without")
    example = None if like is None else _example(like)
    named = named_by(IndexStore(folder))
    if not (name := model or named.get("model")):
        raise SettingError(f"the index {folder} does not say the name of its model; give it as --model.")
    index = Index(folder, make_segmenter(name, device, named.get("dtype")))
    teach(index.segmenter, labels)
    hits = index.search(
        _with_example(index, asked, example), top, without=absent, under=under,
        by=by or ("picture" if words is None and example is not None and example[1] is None else "place"),
        **given(templates=templates),
    )  # fmt: skip
    for hit in hits:
        if as_json:
            say(json.dumps(hit.to_dict()))
        else:
            left, top_, right, bottom = hit.box
            place = f"{right - left} x {bottom - top_} at {left}, {top_}" if hit.is_there else "not there"
            say(f"{hit.score:6.3f}  {place:<26} {_from_here(hit.file)}")
    if hits and not any(hit.is_there for hit in hits):
        tell("nothing like it was found: these pictures are the best of none.")
    if out is not None and hits:
        _write_sheet(hits, " and ".join(filter(None, [words, like and f"like {like}"])), without, out)


def _example(text: str) -> tuple[str, tuple[int, int] | None]:
    """PICTURE or PICTURE#X,Y."""
    match = re.fullmatch(r"(.+)#(\d+),(\d+)", text, re.DOTALL)
    if match is None or Path(text).is_file():
        return text, None
    return match[1], (int(match[2]), int(match[3]))


def _with_example(index: Index, asked: Any, example: tuple[str, tuple[int, int] | None] | None) -> Any:
    """What is asked for, by name: words with their synonyms, and the example's vector."""
    if example is None:
        return asked
    path, at = example
    words = asked if isinstance(asked, dict) else {group[0]: group for group in asked or []}
    return {**words, f"like {Path(path).name}": index.example(path, at)}


def _from_here(file: Path) -> Path:
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


def _write_sheet(hits: list[Hit], title: str, without: str | None, out: Path) -> None:
    from ..errors import PictureError
    from ..imaging.marks import save_options
    from ..index.sheet import contact_sheet
    from ..storage.files import image_format, save_image

    missing: list[str] = []
    try:
        sheet = contact_sheet(hits, title if without is None else f"{title} without {without}", missing.append)
        save_image(sheet, out, **save_options(image_format(out), sheet.size))
    except PictureError as error:
        missing.append(f"{error} No sheet was written.")
    for reason in missing:
        tell(f"warning: not on the sheet: {reason}")
    if missing:
        raise typer.Exit(1)
