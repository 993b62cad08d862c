"""``sclip app``: a web page on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .listening import AllowHosts, Host, Lists, MaxPixels, allow_lists, limits_of
from .options import Device, Dtype, Model, Taught, make_segmenter, teach
from .settings import Asked, with_settings
from .terminal import tell


@with_settings()
def app(
    model: Model = DEFAULT_MODEL,
    index: Annotated[
        Path | None, typer.Option(help="An index of 'sclip index' with the same model; adds a tab that searches it.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 7860,
    share: Annotated[
        bool,
        typer.Option("--share", help="Make a public address through gradio's servers: pictures leave this machine."),
    ] = False,
    allow_host: AllowHosts = None,
    max_pixels: MaxPixels = None,
    labels: Taught = None,
    lists: Lists = None,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Open a page in the browser: segment pictures by words, change words, compare methods, download.

    Without --share and --host only this machine can reach it. The page downloads nothing, and opens no path that a
    visitor sends.

    Example: sclip app --model demo
    """
    from ..errors import ModelLoadError

    try:
        from ..integrations.app import run
        from ..integrations.serve.door import check_port
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"sclip app needs {error.name}, which is not installed: pip install 'sclip_plugin[app]'."
        ) from error
    from ..index.collection import Index

    limits = limits_of(max_pixels)
    check_port(host, port)
    segmenter = make_segmenter(model, device, dtype, asked.preset, paths=False, **asked.changes)
    teach(segmenter, labels)
    allow_lists(segmenter, lists)
    collection = None if index is None else Index(index, segmenter)
    tell(f"open http://{host}:{port}")
    run(segmenter, model, host, port, share, limits, collection, allow_host or ())
