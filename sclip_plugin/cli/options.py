"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import tell

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter
    from ..text.tuned import Tuned

    Labelled = list[list[str]] | dict[str, list[str]] | Tuned | str
else:
    Labelled = Any


PROMPTS_TO_SAY = 4000  # as many take a while on a processor


Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        "-l",
        help="Names between commas; '|' joins synonyms of one class: \"cat, remote control, sofa|couch\". "
        "@FILE reads them from a file: one class a line, JSON, YAML, or what 'sclip tune' made. "
        "@auto (@auto:FILE; '@auto, cat'): the names that are found in each picture; see 'sclip names'.",
        rich_help_panel="Words",
    ),
]
Taught = Annotated[
    str | None,
    typer.Option(
        "--labels",
        "-l",
        help="@FILE that 'sclip tune' made: words that it knows mean what it has learnt.",
        rich_help_panel="Words",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A hub id or folder of transformers; open_clip:ARCH/PRETRAINED; open_clip:ARCH@FILE; timm:NAME; "
        "or demo, the small CLIP that ships with the package and works offline.",
        rich_help_panel="Model",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: CUDA if available.", rich_help_panel="Model")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: float32, float16, bfloat16; auto: half precision if faster.",
        rich_help_panel="Model",
    ),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting, or an option of the method.")
]


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """``--set NAME=VALUE``, each value as YAML reads it; what it may be is for `Settings` to say."""
    from ..errors import SettingError
    from ..storage.reading import TextFileError, load_yaml

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


def given(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def parse_labels_option(text: str | None, option: str = "--labels") -> Labelled | None:
    """The command line's form of labels: commas between classes, bars between synonyms, @FILE, or @auto as it is.

    Args:
        text: as given.
        option: what errors call it.
    """
    from ..errors import LabelError
    from ..text.files import looks_like_file, read_labels, split_labels
    from ..text.wordlist import as_auto

    if text is None or as_auto(text):
        return text
    classes: Labelled
    if text.startswith("@"):
        classes = read_labels(text[1:])
    elif looks_like_file(text):
        raise LabelError(f"{option} {text} names a file; to read names from it, write {option} @{text}.")
    else:
        classes = split_labels(text)
    if classes in ([], {}):
        raise LabelError(f'{option} holds no names; expected some such as {option} "cat, remote control, sofa|couch".')
    return classes


def make_segmenter(
    model: str, device: str | None, dtype: str | None = None, preset: str | None = None, **changes: Any
) -> Segmenter:
    from ..segment.segmenter import Segmenter

    quiet_transformers()
    return Segmenter.from_pretrained(model, device=device, dtype=dtype, preset=preset, **changes)


def teach(segmenter: Segmenter, labels: str | None, check: bool = True) -> Segmenter:
    """Let words mean what a file of tuned labels has learnt.

    Args:
        segmenter: changed in place.
        labels: of `Taught`; None changes nothing.
        check: refuse a file for another model or other settings than the segmenter's own now.
    """
    from ..errors import LabelError
    from ..text.tuned import Tuned

    tuned = parse_labels_option(labels)
    if tuned is not None and not isinstance(tuned, Tuned):
        raise LabelError(f"--labels {labels}: expected @FILE.safetensors, which 'sclip tune' made.")
    if tuned is not None and check:
        segmenter.text_embeddings(tuned, background=False)
    segmenter.taught = tuned
    return segmenter


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
