"""``sclip memory``: regions of unlabelled pictures, remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Model, make_segmenter
from .pictures import MaxPixels, find_pictures, limit_pixels
from .presence import learned
from .settings import Asked, with_settings
from .terminal import Quiet, say, tell

memory_app = typer.Typer(
    help="Build a memory bank of unlabelled pictures, for the step memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@memory_app.command("build")
@with_settings("steps", "threshold", "refine", "background", "ignore", "logit_scale", "templates", preset=False)
def build(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders (searched for pictures), or patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the memory bank; an existing bank is extended.")],
    guide: Annotated[
        str, typer.Option(help="Outside model that finds similar regions: a name or folder of transformers.")
    ],
    model: Model = DEFAULT_MODEL,
    second: Annotated[str | None, typer.Option(help="A second CLIP, whose values are stored too.")] = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Build a memory bank from unlabelled pictures of your domain. Re-running an interrupted build resumes it.

    Pictures are processed in the order of their names. Unreadable files are listed and skipped.

    Example: sclip memory build photos/ --out bank/ --masks slic --guide facebook/dinov2-base --method clearclip
    """
    from ..errors import PictureError
    from ..imaging.pictures import read_picture
    from ..steps.memory import MemoryBank
    from ..steps.presence import FEWEST, KEPT
    from ..storage.files import check_writable

    limit_pixels(max_pixels)
    found = find_pictures(pictures, out)
    check_writable(out)
    segmenter = make_segmenter(model, device, dtype, None, **asked.changes)
    other = None if second is None else make_segmenter(second, device, dtype, None, **asked.changes)
    failed = []

    def read():
        for named in sorted(found.pictures, key=lambda picture: (picture.relative.stem, picture.given)):
            try:
                with named.open() as file:
                    picture = read_picture(file)
                segmenter.prepare(picture)  # one that is too long to be segmented is left out here
                yield picture
            except (PictureError, OSError) as error:
                failed.append(named.given)
                tell(f"{named.given}: {error}")

    def progress(done: int) -> None:
        if not quiet:
            tell(f"{done} of {len(found.pictures)} pictures")

    bank = MemoryBank.build(segmenter, read(), out, guide=guide, second=other, progress=progress)
    say(f"{len(bank)} regions of {len(bank.store.pictures())} pictures -> {out}")
    if len(found.pictures) - len(failed) >= FEWEST:
        learned(segmenter, found.pictures).save(out / KEPT)
        say(f"presence: learned from them, too; --present yes with this memory uses {out / KEPT}")
    if failed:
        raise typer.Exit(1)
