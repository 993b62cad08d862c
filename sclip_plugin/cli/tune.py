"""``sclip tune``: labels taught by a few annotated pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Labelled, Labels, Model, make_segmenter, parse_labels_option
from .pictures import MaxPixels, find_pictures, limit_pixels
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, tell

DEFAULT = "templates.json"


@with_settings("steps", "threshold", "refine", "background", "ignore")
def tune(
    examples: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders and files of annotated pictures: COCO JSON, labelme, Label Studio, CVAT, YOLO, PNG masks."
        ),
    ] = None,
    labels: Labels = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PICTURES",
            help="Pictures without annotations (a folder, file or pattern; may be repeated): rank the templates of "
            "each class by them instead, for the step floss.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file to write: tuned.safetensors, which --labels @FILE reads; with --unlabelled "
            "templates.json, which --steps \"floss('FILE')\" reads.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add the examples to those of the file; these are not looked at again.")
    ] = False,
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Teach labels by a few annotated pictures: --labels @FILE then segments with what was learnt, at the same cost.

    Without --labels, the categories of the annotations are the labels. A label "background" stands for everything else.
    Classes without examples keep their words. From three pictures on, pictures are left out to compare with words
    alone; if these do not gain, the words are written.

    Exit code: 0; 1 if some examples were left out (they are listed); 2 if nothing was written.

    Example: sclip tune examples/ --labels "cat, sofa, part 17-B" --out mine.safetensors --model demo
    """
    limit_pixels(max_pixels)
    if bool(examples) == bool(unlabelled) or (add and unlabelled):
        raise typer.BadParameter("expected either EXAMPLES, annotated pictures, or --unlabelled PICTURES alone.")
    if unlabelled:
        out = out or Path(DEFAULT)
        return _rank(unlabelled, parse_labels_option(labels), out, (model, device, dtype), asked, quiet, as_json)
    out = out or Path("tuned.safetensors")
    from ..errors import SettingError
    from ..examples.learning import learn
    from ..examples.reading import read_examples
    from ..memory.examples import Cells
    from ..storage.files import check_writable
    from ..text.labels import parse_labels
    from ..text.tuned import Tuned, cells_path

    if out.suffix.lower() != ".safetensors":
        raise SettingError(f"--out {out}: expected a name that ends in .safetensors, by which --labels @FILE knows it.")
    parsed = parse_labels_option(labels)
    names = None if parsed is None else list(parse_labels(parsed).labels)
    before = None
    if add:
        before = dataclasses.replace(Tuned.load(out), cells=Cells.load(cells_path(out)))
        names = names or list(before.labels)
    read = read_examples(examples or [], names)
    check_writable(out.parent)
    segmenter = make_segmenter(model, device, dtype, asked.preset, **asked.changes)

    def progress(done: int, count: int) -> None:
        if not quiet and (done % 10 == 0 or done == count):
            tell(f"{done} of {count} pictures")

    learnt = learn(segmenter, read, parsed, add=before, progress=progress)
    learnt.tuned.save(out)
    for problem in learnt.problems:
        tell(problem)
    if as_json:
        said = {"file": str(out), "kind": read.kind, "pictures": learnt.pictures, "pixels": learnt.pixels}
        say(json.dumps({**said, **learnt.tuned.report, "problems": learnt.problems}))
    elif not quiet:
        say(*f"{read.kind}: {learnt}".splitlines(), f"-> {out}")
    if learnt.problems:
        raise typer.Exit(1)


def _rank(
    given: list[str],
    labels: Labelled | None,
    out: Path,
    model: tuple[str, str | None, str],
    asked: Asked,
    quiet: bool,
    as_json: bool,
) -> None:
    """FLOSS: rank the templates of each class by unlabelled pictures."""
    from ..errors import FileFormatError, PictureError, SettingError
    from ..imaging.pictures import read_picture
    from ..steps.floss import Ranking
    from ..storage.files import check_writable

    asked.check_labels(labels)
    if out.suffix.lower() != ".json":
        raise SettingError(f"--out {out}: expected a name that ends in .json, for people can read the ranking.")
    if out.exists():
        try:
            Ranking.load(out)
        except FileFormatError:
            raise SettingError(f"{out} exists, and holds no ranked templates; name another with --out.") from None
    found, failed = find_pictures(given), []
    check_writable(out.parent)
    segmenter = make_segmenter(*model, asked.preset, **asked.changes)

    def read() -> Iterator[Any]:
        for done, named in enumerate(found.pictures, start=1):
            try:
                with named.open() as file:
                    picture = read_picture(file)
                segmenter.prepare(picture)  # one that is too long to be segmented is left out here
                yield picture
            except (PictureError, OSError) as error:
                failed.append(f"{named.given}: {error}")
            if not quiet and (done % 10 == 0 or done == len(found.pictures)):
                tell(f"{done} of {len(found.pictures)} pictures")

    ranking = Ranking.build(segmenter, read(), labels)
    ranking.save(out)
    best = {name: ranking.best(name, 4) for name in ranking.classes}
    for problem in failed:
        tell(problem)
    if as_json:
        say(json.dumps({"file": str(out), "pictures": ranking.pictures, "templates": best, "problems": failed}))
    elif not quiet:
        rows = [f"{name}: {'; '.join(found) or 'no template finds it'}" for name, found in best.items()]
        say(f"{ranking.pictures} pictures", *rows, f"-> {out}; use it with --steps \"floss('{out}')\"")
    if failed:
        raise typer.Exit(1)
