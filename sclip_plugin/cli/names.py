"""``sclip names``: what is in pictures, without a vocabulary."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Model, make_segmenter
from .pictures import MaxPixels, NamedPicture, find_pictures, limit_pixels
from .presence import learned
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, tell

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


@with_settings("threshold", "refine", "background", "masks", preset=False)
def names(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders (searched for pictures), patterns, or URLs.")],
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            help="@auto: the shipped list; @auto:FILE: your own; '@auto, cat': offer cat too.",
            rich_help_panel="Words",
        ),
    ] = "@auto",
    top: Annotated[int, typer.Option(min=1, help="At most so many names a picture.")] = 20,
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Say what is in pictures: the words of a long list that they show, with their share of the picture.

    Of several pictures, a table of the words follows, with the number of pictures that show each. The model needs a
    null of presence; without one it is learned from the pictures, if they are five or more.

    Exit code: 0 if all pictures were named, 1 if some failed, 2 if all failed or nothing could start.

    Example: sclip names photo.jpg --model demo
    """
    from ..errors import SclipError
    from ..imaging.pictures import read_picture
    from ..text.wordlist import auto_of

    limit_pixels(max_pixels)
    auto_of(labels)
    asked.check_labels(labels, named=True)
    found = find_pictures(pictures)
    segmenter = make_segmenter(model, device, dtype, None, **asked.changes)
    know_presence(segmenter, found.pictures)
    embed_list(segmenter, labels, quiet)
    counts, failed = Counter[str](), []
    for picture in found.pictures:
        try:
            with picture.open() as file:
                known = segmenter.names(read_picture(file), top, labels)
        except (SclipError, OSError, MemoryError) as error:
            failed.append(picture)
            tell(f"failed: {picture.given}: {error}")
            continue
        counts.update(name.word for name in known)
        if as_json:
            say(json.dumps({"picture": picture.given, "names": [dataclasses.asdict(name) for name in known]}))
            continue
        say(f"{picture.given}: {len(known) or 'no'} names")
        for name in known:
            others = f"  ({', '.join(name.synonyms[:5])})" if name.synonyms else ""
            say(f"{100 * name.share:6.1f} %  presence {name.presence:.2f}  {name.word}{others}")
    if not as_json and len(found.pictures) > 1:
        say("pictures  word")
        for word, count in counts.most_common():
            say(f"{count:8}  {word}")
    if failed:
        raise typer.Exit(2 if len(failed) == len(found.pictures) else 1)


def know_presence(segmenter: Segmenter, pictures: list[NamedPicture]) -> None:
    """Learn the null from the pictures where the model came without, and none was named."""
    from ..steps import Present

    step = next((step for step in segmenter.settings.make_steps() if isinstance(step, Present)), None)
    if segmenter.chain.null is None and (step is None or step.null is None):
        segmenter.chain.null = learned(segmenter, pictures)
        tell(f"presence: learned from {segmenter.chain.null.pictures} of the pictures, since the model came without")


def embed_list(segmenter: Segmenter, labels: Any, quiet: bool) -> None:
    """Embed a list of words before the first picture: an estimate, and a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..text.wordlist import auto_of

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("embedding words"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=quiet or not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, left: float) -> None:
            if not quiet and progress.tasks[task].total is None and left > 2:
                tell(f"embedding {total:,} words: about {left:.0f} s; kept for the next time")
            progress.update(task, completed=done, total=total)

        segmenter.word_bank.of(segmenter.words_of(auto_of(labels)), report)
