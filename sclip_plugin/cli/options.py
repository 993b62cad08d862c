"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import PAMR_STEPS
from ..settings import Settings

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


def setting(name: str, *flags: str) -> typer.models.OptionInfo:
    """The option of a setting: its help and range are those of the field of `Settings`."""
    field = {f.name: f for f in dataclasses.fields(Settings)}[name]
    text = field.metadata["help"]
    return typer.Option(
        *(flags or (f"--{name.replace('_', '-')}",)),
        help=f"{text[0].upper()}{text[1:]}.",
        min=field.metadata["low"],
        max=field.metadata["high"],
    )


Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        "-l",
        help="Names between commas; '|' joins synonyms of one class: \"cat, remote control, sofa|couch\". "
        "@FILE reads them from a text file, one class a line.",
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
MethodName = Annotated[str, setting("method")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default CUDA where there is one.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, float16, bfloat16; auto: half precision where it is faster.")
]
Window = Annotated[int | None, setting("window")]
Stride = Annotated[int | None, setting("stride")]
Resize = Annotated[int | None, setting("resize_short_side", "--resize")]
Background = Annotated[bool, setting("background")]
Threshold = Annotated[float | None, setting("threshold")]
Templates = Annotated[str | None, setting("templates")]
Refine = Annotated[
    bool, typer.Option("--refine", help=f"Sharpen along the picture's colours (PAMR, {PAMR_STEPS} steps).")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, or an option of the method; 'sclip methods'."),
]


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """``--set NAME=VALUE``, each value as YAML reads it; what it may be is for `Settings` to say."""
    import yaml

    from ..errors import SettingError

    parsed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise SettingError(f"--set {change}: expected NAME=VALUE, for instance --set logit_scale=50.")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SettingError(f"--set {change}: the value cannot be read: {reason}") from error
    return parsed


def given(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def parse_labels_option(text: str) -> list[list[str]]:
    """The command line's form of labels: commas between classes, bars between synonyms, @FILE with a class a line."""
    from ..errors import LabelError
    from ..text.labels import parse_labels

    if text.startswith("@"):
        try:
            entries = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise LabelError(f"the labels' file {text[1:]} can't be read: {error.strerror}") from error
    else:
        entries = text.split(",")
    classes = [[name.strip() for name in entry.split("|") if name.strip()] for entry in entries]
    classes = [names for names in classes if names]
    if not classes:
        raise LabelError('--labels holds no names; expected some such as --labels "cat, remote control, sofa|couch".')
    parse_labels(classes)  # a label given twice is said before a model is fetched
    return classes


def make_segmenter(
    model: str, method: str, device: str | None, dtype: str | None = None, changes: dict[str, Any] | None = None
) -> Segmenter:
    from ..segment.segmenter import Segmenter

    Settings(method=method).changed(**changes or {})  # what is misspelt is said before a model is fetched
    quiet_transformers()
    return Segmenter.from_pretrained(model, device=device, dtype=dtype, method=method, **changes or {})


def quiet_transformers() -> None:
    """What transformers logs and shows while a model loads is not this program's output."""
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
