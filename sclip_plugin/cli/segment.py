"""``sclip segment``: masks for files, folders and patterns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL, PAMR_STEPS
from .options import (
    Background,
    Changes,
    Device,
    Dtype,
    Labels,
    MethodName,
    Model,
    Refine,
    Resize,
    Stride,
    Templates,
    Threshold,
    Window,
    given,
    make_segmenter,
    parse_changes,
    parse_labels_option,
)
from .pictures import find_pictures, with_stems

_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def segment(
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders (searched for pictures), or patterns like '*.jpg'.")
    ],
    labels: Labels,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made where it is missing.")] = Path(
        "out"
    ),
    model: Model = DEFAULT_MODEL,
    method: MethodName = "csa",
    background: Background = False,
    threshold: Threshold = None,
    refine: Refine = False,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Write a heat map of every label, too.")] = False,
    window: Window = None,
    resize: Resize = None,
    stride: Stride = None,
    templates: Templates = None,
    change: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip pictures already finished with the same settings.")
    ] = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Segment pictures by labels.

    Writes for each picture NAME.overlay.png (the picture in colours, with a legend), NAME.labels.png (a palette picture
    whose values are the labels' indices) and NAME.json (labels, areas, scores, settings).

    Exit code: 0 if all pictures were done, 1 if some could not be, 2 if nothing could start.

    Example: sclip segment photo.jpg --labels "cat, remote control, sofa" --model demo
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parsed = parse_labels_option(labels)
    todo = with_stems(find_pictures(pictures))
    settings = given(
        background=background, threshold=threshold, window=window, stride=stride, resize_short_side=resize,
        templates=templates, **parse_changes(change or []),
    )  # fmt: skip
    if refine:
        settings["pamr_steps"] = PAMR_STEPS
    segmenter = make_segmenter(model, method, device, dtype, settings)
    shown = {
        "model": model,
        "dtype": segmenter.dtype,
        "labels": class_names(parsed, background),
        **segmenter.settings.plain(),
        "identity": segmenter.identity(parsed),
    }
    identity = json.loads(json.dumps(shown))

    failed: list[tuple[str, str]] = []
    skipped = 0
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
        transient=True, disable=len(todo) == 1 or not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task("segmenting", total=len(todo))
        for path, stem in todo:
            progress.update(task, description=path.name)
            if resume and _finished(out / f"{stem}.json", identity):
                skipped += 1
            else:
                try:
                    result = segmenter(path, parsed)
                    result.settings = identity
                    written = result.save(out, stem, heatmaps=heatmaps)
                except (OSError, ValueError) as error:
                    failed.append((str(path), str(error)))
                else:
                    areas = sorted(result.areas().items(), key=lambda item: -item[1])
                    shares = ", ".join(f"{label} {100 * area:.0f} %" for label, area in areas if area >= 0.005)
                    progress.console.print(f"{path}: {shares or 'nothing labelled'} -> {written['overlay']}", **_PLAIN)
            progress.advance(task)
    done = len(todo) - skipped - len(failed)
    if len(todo) > 1:
        typer.echo(f"{done} done, {skipped} skipped, {len(failed)} failed", err=True)
    for name, reason in failed:
        typer.echo(f"failed: {reason if name in reason else f'{name}: {reason}'}", err=True)
    if failed:
        raise typer.Exit(1)


def class_names(classes: list[list[str]], background: bool) -> list[list[str]]:
    return [*classes, ["background"]] if background else classes


def _finished(path: Path, identity: dict[str, Any]) -> bool:
    try:
        # Files from before dtype was among the settings are in single precision.
        return {"dtype": "float32", **json.loads(path.read_text(encoding="utf-8"))["settings"]} == identity
    except (OSError, ValueError, KeyError, TypeError):
        return False
