"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter

Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        "-l",
        help="Names between commas; '|' joins synonyms of one class: \"cat, remote control, sofa|couch\". "
        "@FILE reads them from a file: one class a line, or JSON, or YAML.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A hub id or folder of transformers; open_clip:ARCH/PRETRAINED; open_clip:ARCH@FILE; timm:NAME; "
        "or demo, the small CLIP that ships with the package and works offline.",
    ),
]
MethodName = Annotated[
    str, typer.Option("--method", help="What replaces the last block's attention; see 'sclip methods'.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default CUDA where there is one.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, float16, bfloat16; auto: half precision where it is faster.")
]
Window = Annotated[
    int | None, typer.Option(min=0, help="Side of the windows in pixels; 0: the whole picture in one pass.")
]
Resize = Annotated[
    int | None, typer.Option("--resize", min=0, help="Short side the picture is resized to; 0: not resized.")
]
Background = Annotated[bool, typer.Option("--background", help="Add one more class for everything else.")]
Refine = Annotated[bool, typer.Option("--refine", help="Sharpen along the picture's colours (PAMR, 10 steps).")]


Labelled = list[list[str]] | dict[str, list[str]]
"""Classes with their names, in a form that `parse_labels` takes."""


def given(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def parse_labels_option(text: str) -> Labelled:
    """The command line's form of labels: commas between classes, bars between synonyms, or @FILE."""
    from ..errors import LabelError
    from ..text.files import looks_like_file, read_labels, split_labels
    from ..text.labels import parse_labels

    classes: Labelled
    if text.startswith("@"):
        classes = read_labels(text[1:])
    elif looks_like_file(text):
        raise LabelError(f"--labels {text} names a file; to read labels from it, write --labels @{text}.")
    else:
        classes = split_labels(text)
    if not classes:
        raise LabelError('--labels holds no names; expected some such as --labels "cat, remote control, sofa|couch".')
    parse_labels(classes)  # a label given twice is said before a model is fetched
    return classes


def make_segmenter(model: str, method: str, device: str | None, dtype: str | None = None) -> Segmenter:
    from ..methods import make_method
    from ..segment.segmenter import Segmenter

    make_method(method)  # a misspelt method is said before a model is fetched
    quiet_transformers()
    return Segmenter.from_pretrained(model, device=device, dtype=dtype, method=method)


def quiet_transformers() -> None:
    """What transformers logs and shows while a model loads is not this program's output."""
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
