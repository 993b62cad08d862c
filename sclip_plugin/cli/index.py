"""``sclip index``: a folder of pictures, to be searched by words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, make_segmenter
from .pictures import MaxPixels, limit_pixels
from .ray import Ray
from .settings import Asked, with_settings
from .terminal import Quiet, say, tell

ModelOfIndex = Annotated[
    str | None,
    typer.Option("--model", "-m", help="As for 'sclip segment'; default: the model of the index."),
]
DtypeOfIndex = Annotated[
    str | None,
    typer.Option("--dtype", help="Precision of the weights, as for 'sclip segment'; default: that of the index."),
]


@with_settings("steps", "threshold", "refine", "background", "logit_scale", "templates", preset=False)
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of the pictures, with its subfolders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the index; an existing index is updated.")],
    model: ModelOfIndex = None,
    max_pixels: MaxPixels = None,
    ray: Ray = None,
    quiet: Quiet = False,
    device: Device = None,
    dtype: DtypeOfIndex = None,
    *,
    asked: Asked,
) -> None:
    """Index a folder's pictures, to find them by words: see 'sclip search'.

    Only what is new or changed is looked at, so it is run again whenever the folder has changed. One that was stopped
    goes on where it was. Pictures that can't be read are told of and left out until they change.

    Example: sclip index photos/ --out photos.index --model demo
    """
    from ..files import check_writable
    from ..index.building import Progress
    from ..index.collection import Index

    limit_pixels(max_pixels)
    check_writable(out)
    named = Index.named(out)
    name = model or named.get("model") or DEFAULT_MODEL
    segmenter = make_segmenter(name, device if ray is None else "cpu", dtype or named.get("dtype") or "float32")

    def progress(now: Progress) -> None:
        if not quiet:
            tell(f"{now.same + now.done} of {now.found} pictures")

    elsewhere: dict[str, Any] = {}
    if ray is not None:
        from ..integrations.ray import RayLook

        elsewhere["look"] = RayLook(ray or None, name, device, segmenter.dtype)
    built = Index.build(segmenter, folder, out, name=name, progress=progress, **asked.changes, **elsewhere)
    failed = built.failed()
    for path, error in failed.items():
        tell(f"{path}: {error}")
    if not quiet:
        say(f"{len(built)} pictures -> {out}")
    if failed:
        raise typer.Exit(1)
