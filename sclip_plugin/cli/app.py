"""``sclip app``: a web page on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Model, make_segmenter
from .settings import Asked, with_settings
from .terminal import tell


@with_settings()
def app(
    model: Model = DEFAULT_MODEL,
    index: Annotated[
        Path | None, typer.Option(help="An index of 'sclip index' with the same model; adds a tab that searches it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; by default only this machine can reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 7860,
    share: Annotated[
        bool,
        typer.Option("--share", help="Make a public address through gradio's servers: pictures leave this machine."),
    ] = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Open a page in the browser: segment pictures by words, change words, compare methods, download.

    Without --share only this machine can reach it, and nothing is downloaded. No path of a visitor is opened.

    Example: sclip app --model demo
    """
    from ..errors import ModelLoadError

    try:
        from ..integrations.app import run
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"sclip app needs {error.name}, which is not installed: pip install 'sclip_plugin[app]'."
        ) from error
    from ..index.collection import Index

    segmenter = make_segmenter(model, device, dtype, asked.preset, paths=False, **asked.changes)
    collection = None if index is None else Index(index, segmenter)
    tell(f"open http://{host}:{port}")
    run(segmenter, model, host, port, share, index=collection)
