"""``sclip tune``: labels taught by a few annotated pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option
from .pictures import MaxPixels, limit_pixels
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, tell


@with_settings("steps", "threshold", "refine", "background", "ignore", preset=False)
def tune(
    examples: Annotated[
        list[str],
        typer.Argument(
            help="Folders and files of annotated pictures: COCO JSON, labelme, Label Studio, CVAT, YOLO, PNG masks."
        ),
    ],
    labels: Labels = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; --labels @FILE reads it.")] = Path(
        "tuned.safetensors"
    ),
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
    from ..errors import SettingError
    from ..examples.learning import learn
    from ..examples.reading import read_examples
    from ..memory.examples import Cells
    from ..storage.files import check_writable
    from ..text.labels import parse_labels
    from ..text.tuned import Tuned, cells_path

    limit_pixels(max_pixels)
    if out.suffix.lower() != ".safetensors":
        raise SettingError(f"--out {out}: expected a name that ends in .safetensors, by which --labels @FILE knows it.")
    parsed = parse_labels_option(labels)
    names = None if parsed is None else list(parse_labels(parsed).labels)
    before = None
    if add:
        before = dataclasses.replace(Tuned.load(out), cells=Cells.load(cells_path(out)))
        names = names or list(before.labels)
    read = read_examples(examples, names)
    check_writable(out.parent)
    segmenter = make_segmenter(model, device, dtype, None, **asked.changes)

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
