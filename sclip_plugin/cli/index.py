"""``sclip index``: a folder of pictures, to be searched by words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .names import embed_list
from .options import Device, make_segmenter
from .pictures import MaxPixels, limit_pixels
from .ray import Ray
from .settings import Asked, with_settings
from .terminal import Quiet, say, shown, tell

if TYPE_CHECKING:
    from ..index.building import Progress

ModelOfIndex = Annotated[
    str | None,
    typer.Option("--model", "-m", help="As for 'sclip segment'; default: the model of the index."),
]
DtypeOfIndex = Annotated[
    str | None,
    typer.Option("--dtype", help="Precision of the weights, as for 'sclip segment'; default: that of the index."),
]


@with_settings("steps", "threshold", "refine", "background", "ignore", "logit_scale", "templates", preset=False)
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of the pictures, with its subfolders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the index; an existing index is updated.")],
    model: ModelOfIndex = None,
    max_pixels: MaxPixels = None,
    ray: Ray = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="@auto", help="Then list what is in the pictures, by the shipped list, or @auto:FILE."),
    ] = None,
    quiet: Quiet = False,
    device: Device = None,
    dtype: DtypeOfIndex = None,
    *,
    asked: Asked,
) -> None:
    """Index a folder's pictures, to find them by words: see 'sclip search'.

    Only what is new or changed is looked at, so it is run again whenever the folder has changed. One that was stopped
    goes on where it was. Pictures that can't be read are listed, left out, and tried again next time.

    Example: sclip index photos/ --out photos.index --model demo
    """
    from ..index.collection import Index
    from ..storage.files import check_writable
    from ..text.wordlist import auto_of

    limit_pixels(max_pixels)
    check_writable(out)
    if names is not None:
        auto_of(names).words()
    named = Index.named(out)
    name = model or named.get("model") or DEFAULT_MODEL
    segmenter = make_segmenter(name, device if ray is None else "cpu", dtype or named.get("dtype") or "float32")

    elsewhere: dict[str, Any] = {}
    if ray is not None:
        from ..integrations.ray import RayLook

        elsewhere["look"] = RayLook(ray or None, name, device, segmenter.dtype)
    with _shown(quiet) as progress:
        built = Index.build(segmenter, folder, out, name=name, progress=progress, **asked.changes, **elsewhere)
    failed = built.failed()
    for path, error in failed.items():
        tell(f"{shown(path)}: {error}")
    if not quiet:
        say(f"{len(built)} pictures -> {out}")
    if names is not None:
        embed_list(segmenter, names, quiet)
        say("pictures  word, where")
        for word, paths in built.names(names).items():
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            say(f"{len(paths):8}  {word}: {', '.join(paths[:3])}{more}")
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """How far a build is: a bar on a terminal, else a line each time that pictures were kept."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    as_bar = console.is_terminal and not quiet
    bar = Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
        transient=True, disable=not as_bar,
    )  # fmt: skip
    task = bar.add_task("indexing", total=None)

    def progress(now: Progress) -> None:
        bar.update(task, total=now.found, completed=now.same + now.done)
        if not (as_bar or quiet):
            tell(f"{now.same + now.done} of {now.found} pictures")

    with bar:
        yield progress
