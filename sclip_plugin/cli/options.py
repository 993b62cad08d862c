"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import PAMR_STEPS
from ..settings import Settings
from .terminal import tell

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


PROMPTS_TO_SAY = 4000  # as many take a while on a processor


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
    str | None,
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
MethodName = Annotated[str | None, setting("method")]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", help="Settings, and classes where --labels names none, of a paper: 'sclip/voc21'."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default CUDA where there is one.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, float16, bfloat16; auto: half precision where it is faster.")
]
Window = Annotated[int | None, setting("window")]
Stride = Annotated[int | None, setting("stride")]
Resize = Annotated[int | None, setting("resize_short_side", "--resize")]
Background = Annotated[bool, setting("background")]
Threshold = Annotated[float | None, setting("threshold")]
Masks = Annotated[str | None, setting("masks")]
Memory = Annotated[str | None, setting("memory")]
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
    from ..errors import SettingError
    from ..reading import TextFileError, load_yaml

    parsed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise SettingError(f"--set {change}: expected NAME=VALUE, for instance --set logit_scale=50.")
        try:
            parsed[key.strip()] = load_yaml(value, f"the value of --set {key.strip()}")
        except TextFileError as error:
            raise SettingError(str(error)) from error
    return parsed


Labelled = list[list[str]] | dict[str, list[str]]
"""Classes with their names, in a form that `parse_labels` takes."""


def given(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def parse_labels_option(text: str | None, option: str = "--labels") -> Labelled | None:
    """The command line's form of labels: commas between classes, bars between synonyms, or @FILE.

    Args:
        text: as given.
        option: what errors call it.
    """
    from ..errors import LabelError
    from ..text.files import looks_like_file, read_labels, split_labels

    if text is None:
        return None
    classes: Labelled
    if text.startswith("@"):
        classes = read_labels(text[1:])
    elif looks_like_file(text):
        raise LabelError(f"{option} {text} names a file; to read names from it, write {option} @{text}.")
    else:
        classes = split_labels(text)
    if not classes:
        raise LabelError(f'{option} holds no names; expected some such as {option} "cat, remote control, sofa|couch".')
    return classes


def chosen_settings(
    method: str | None, preset: str | None, changes: dict[str, Any], refine: bool, **named: Any
) -> dict[str, Any]:
    """What a command line changes of the model's or the preset's settings.

    Args:
        method, preset: by name; None for the preset's, the model's.
        changes: of ``--set``.
        refine: whether ``--refine`` was given.
        **named: settings with an option of their own; None where it was not given.

    Raises:
        SettingError, UnknownNameError: what is misspelt or out of range is said before a model is fetched.
    """
    changes = {**given(method=method, **named), **changes}
    if refine:
        changes.setdefault("pamr_steps", PAMR_STEPS)
    _base(preset).changed(**changes)
    return changes


def check_labels(labels: Labelled | None, preset: str | None, changes: dict[str, Any]) -> None:
    """Labels that do not go together, or are missing, are said before a model is fetched."""
    from ..text.labels import parse_labels

    if labels is not None:
        parse_labels(labels, _base(preset).changed(**changes).background)
    elif preset is None:
        raise typer.BadParameter("Missing option '--labels' / '-l': names of the classes; or give a --preset.")


def _base(preset: str | None) -> Settings:
    from ..protocols.presets import load_preset

    return Settings() if preset is None else load_preset(preset).settings


def make_segmenter(
    model: str, device: str | None, dtype: str | None = None, preset: str | None = None, **changes: Any
) -> Segmenter:
    from ..segment.segmenter import Segmenter

    quiet_transformers()
    return Segmenter.from_pretrained(model, device=device, dtype=dtype, preset=preset, **changes)


def tell_of_long_bank(names: int, templates: int) -> None:
    """Say that embedding the labels will take a while, where it will."""
    if names * templates > PROMPTS_TO_SAY:
        tell(f"embedding the labels: {names * templates:,} prompts; kept for the next time")


def quiet_transformers() -> None:
    """What transformers logs and shows while a model loads is not this program's output."""
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
