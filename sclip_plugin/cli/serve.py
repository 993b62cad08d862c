"""``sclip serve``: segmentation over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .listening import AllowHosts, Host, Lists, MaxPixels, allow_lists, limits_of
from .options import Device, Dtype, Model, Taught, make_segmenter, teach
from .settings import Asked, with_settings
from .terminal import tell


@with_settings()
def serve(
    model: Model = DEFAULT_MODEL,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    allow_host: AllowHosts = None,
    max_pixels: MaxPixels = None,
    labels: Taught = None,
    lists: Lists = None,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Answer pictures and labels over HTTP with JSON: POST /segment, /encode, /ask/ID, /tune; /docs says how.

    The server opens no path and no URL of a visitor.

    Example: sclip serve --model demo
    """
    from ..errors import ModelLoadError

    try:
        from ..integrations.serve import run
        from ..integrations.serve.door import check_port
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"sclip serve needs {error.name}, which is not installed: pip install 'sclip_plugin[serve]'."
        ) from error
    limits = limits_of(max_pixels)
    check_port(host, port)
    segmenter = make_segmenter(model, device, dtype, asked.preset, paths=False, **asked.changes)
    teach(segmenter, labels)
    allow_lists(segmenter, lists)
    tell(f"listening at http://{host}:{port}, described at http://{host}:{port}/docs")
    run(segmenter, host, port, limits, allow_host or ())
