"""``sclip convert``: the conversions on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import say

convert_app = typer.Typer(
    help="Convert a downloaded data set to a benchmark's masks. An interrupted conversion resumes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
Splits = Annotated[str, typer.Option(help="Splits between commas.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Convert again masks that exist.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads.")]


@convert_app.command("cityscapes")
def convert_cityscapes_command(
    data: Root, split: Splits = "val", overwrite: Overwrite = False, workers: Workers = 4
) -> None:
    """Cityscapes: *_gtFine_labelIds.png to *_gtFine_labelTrainIds.png, the 19 classes.

    Example: sclip convert cityscapes data/cityscapes
    """
    from ..evaluation.conversions import convert_cityscapes

    _convert(convert_cityscapes, data, splits=split.split(","), overwrite=overwrite, workers=workers)


@convert_app.command("coco-stuff")
def convert_coco_stuff_command(
    data: Root, split: Splits = "val", overwrite: Overwrite = False, workers: Workers = 4
) -> None:
    """COCO-Stuff's pixel maps to annotations/val2017/*_labelTrainIds.png, the 171 classes.

    Example: sclip convert coco-stuff data/coco_stuff164k
    """
    from ..evaluation.conversions import convert_coco_stuff

    _convert(convert_coco_stuff, data, splits=split.split(","), overwrite=overwrite, workers=workers)


@convert_app.command("coco-object")
def convert_coco_object_command(
    data: Root, split: Splits = "val", overwrite: Overwrite = False, workers: Workers = 4
) -> None:
    """COCO-Stuff's pixel maps to annotations/val2017/*_instanceTrainIds.png: background and the 80 things.

    Example: sclip convert coco-object data/coco_stuff164k
    """
    from ..evaluation.conversions import convert_coco_object

    _convert(convert_coco_object, data, splits=split.split(","), overwrite=overwrite, workers=workers)


@convert_app.command("pascal-context")
def convert_pascal_context_command(
    data: Annotated[Path, typer.Argument(help="VOC2010's folder.")],
    annotations: Annotated[
        Path | None,
        typer.Option(help="trainval_merged.json, or the folder of .mat files; by default searched in DATA."),
    ] = None,
    overwrite: Overwrite = False,
    workers: Workers = 4,
) -> None:
    """PASCAL Context's annotations to SegmentationClassContext/*.png, background and 59 classes, and the split.

    Example: sclip convert pascal-context VOCdevkit/VOC2010 --annotations trainval_merged.json
    """
    from ..evaluation.pascal_context import convert_pascal_context

    _convert(convert_pascal_context, data, annotations=annotations, overwrite=overwrite, workers=workers)


def _convert(convert, root: Path, **options: Any) -> None:
    from ..evaluation.progress import shown_progress

    with shown_progress("converting") as report:
        done = convert(root, progress=report, **options)
    say(done)
    if done.problems:
        raise typer.Exit(1)
