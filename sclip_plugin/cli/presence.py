"""``sclip presence``: what a model answers to words that are not there, learned from unlabelled pictures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option
from .pictures import MaxPixels, NamedPicture, find_pictures, limit_pixels
from .settings import Asked, with_settings
from .terminal import say, tell

if TYPE_CHECKING:
    from ..evaluation.processes import Processes
    from ..evaluation.sets import EvaluationSet
    from ..segment.segmenter import Segmenter
    from ..settings import Settings
    from ..steps import Presence

ENOUGH = 20

presence_app = typer.Typer(
    help="Learn what tells words that are in a picture from those that are not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@presence_app.command("build")
@with_settings("steps", "threshold", "refine", "present", "background", "ignore", "logit_scale", preset=False)
def build(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders (searched for pictures), or patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, such as presence.safetensors.")],
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = None,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Learn a model's null of presence from five or more unlabelled pictures of your kind; twenty are enough.

    Of more than twenty, twenty are taken by their names. Use the file with the same model and the same settings:
    --present FILE.

    Example: sclip presence build photos/ --out presence.safetensors --model openai/clip-vit-base-patch16
    """
    from ..errors import SettingError

    limit_pixels(max_pixels)
    if out.exists() and not _is_ours(out):
        raise SettingError(f"{out} exists, and is no file of 'sclip presence build'; name another with --out.")
    found = find_pictures(pictures)
    segmenter = make_segmenter(model, device, dtype, None, **asked.changes)
    null = learned(segmenter, found.pictures)
    null.save(out)
    say(f"learned from {null.pictures} pictures -> {out}; use it with --present {out}")


@presence_app.command("fit")
@with_settings("steps", "threshold", "refine", "present", "background", "ignore", "logit_scale", preset=False)
def fit(
    examples: Annotated[
        list[str],
        typer.Argument(
            help="Folders and files of annotated pictures: COCO JSON, labelme, Label Studio, CVAT, YOLO, PNG masks."
        ),
    ],
    labels: Labels = None,
    null: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The null, of 'sclip presence build'; default: the model's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; default: that of --null.")] = None,
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = None,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Move threshold and slope of a null by three or more annotated pictures, so that 0.8 is right in 80 %.

    Everything that is offered must be annotated wherever it is. Pictures are left out in turn to see whether it helps;
    if it does not, nothing is written.

    Exit code: 0; 1 if some examples were left out (they are listed); 2 if nothing could start.

    Example: sclip presence fit examples/ --null presence.safetensors --model openai/clip-vit-base-patch16
    """
    from ..errors import SettingError
    from ..evaluation.report import calibration_line
    from ..examples.presence import fit as fit_null
    from ..examples.reading import read_examples
    from ..steps import Presence
    from ..text.labels import parse_labels

    limit_pixels(max_pixels)
    out = out or null
    if out is None:
        raise SettingError("--out is missing; the null that came with the model stays as it is.")
    if out.exists() and not _is_ours(out):
        raise SettingError(f"{out} exists, and is no file of 'sclip presence'; name another with --out.")
    before = None if null is None else Presence.load(null)
    parsed = parse_labels_option(labels)
    read = read_examples(examples, None if parsed is None else list(parse_labels(parsed).labels))
    fitted = fit_null(make_segmenter(model, device, dtype, None, **asked.changes), read, before, parsed)
    for problem in fitted.problems:
        tell(problem)
    say(
        f"{fitted.pictures} pictures; as it was: {calibration_line('presence', fitted.before)}",
        f"fitted, on pictures left out: {calibration_line('presence', fitted.after)}",
    )
    if fitted.gains:
        fitted.null.save(out)
        say(f"threshold {fitted.null.threshold:.2f}, slope {fitted.null.slope:.2f} -> {out}")
    else:
        say("left-out pictures do not gain, so nothing was written; more examples may help")
    if fitted.problems:
        raise typer.Exit(1)


def learned(segmenter: Segmenter, pictures: Sequence[NamedPicture]) -> Presence:
    """The null of a fixed sample of pictures, whatever their order; unreadable ones are passed over."""
    from ..errors import PictureError
    from ..imaging.pictures import read_picture
    from ..steps import Presence

    def read() -> Iterator[Any]:
        taken = 0
        for named in sorted(pictures, key=lambda picture: hashlib.sha256(str(picture.relative).encode()).digest()):
            try:
                with named.open() as file:
                    picture = read_picture(file)
                segmenter.prepare(picture)  # one that is too long to be segmented is passed over, too
            except (PictureError, OSError):
                continue
            yield picture
            taken += 1
            if taken == ENOUGH:
                return

    return Presence.build(segmenter, read())


def learn_if_asked(segmenter: Segmenter, pictures: Sequence[NamedPicture], out: Path, resume: bool) -> None:
    """Learn presence from the pictures at hand, where it is asked for and the model came without.

    What was learned lies in ``out``, so that a resumed run goes on with the same.
    """
    from ..steps.presence import KEPT

    if not segmenter.chain.knows_presence and needs_null(segmenter.settings):
        null = kept_or_learned(segmenter, segmenter.settings, lambda: learned(segmenter, pictures), out / KEPT, resume)
        segmenter.settings = segmenter.settings.changed(present=null)


def needs_null(settings: Settings) -> bool:
    """Whether presence is asked for, and no null is named, nor lies with a memory that is."""
    from ..steps import Present
    from ..steps.presence import null_of_memory

    asked = any(isinstance(step, Present) and step.null is None for step in settings.make_steps())
    return asked and null_of_memory(settings) is None


def kept_or_learned(
    segmenter: Segmenter, settings: Settings, learn: Callable[[], Presence], place: str | Path, resume: bool = False
) -> Presence:
    """The null in a file of an earlier run where it fits, else one that is learned now and kept there."""
    from ..errors import FileFormatError, SettingError
    from ..steps import Presence

    path = Path(place)
    if resume and path.exists():
        try:
            null = Presence.load(path)
            segmenter.chain.null_for(settings.changed(present=null))
            return null
        except (FileFormatError, SettingError) as error:
            tell(f"{path} is not used: {error}")
    null = learn()
    path.parent.mkdir(parents=True, exist_ok=True)
    null.save(path)
    tell(f"presence: learned from {null.pictures} pictures, since the model came without; kept in {path}")
    return null


def null_of_set(
    segmenter: Segmenter, settings: Settings, data: EvaluationSet, folder: Path, resume: bool, processes: Processes
) -> Presence | None:
    """The null for an evaluation that asks for presence, where the model came with none for these settings.

    It is learned from a fixed sample of the set's pictures, by one process for all.
    """
    from ..evaluation.datasets import MaskError
    from ..steps import Presence
    from ..steps.presence import KEPT

    own = segmenter.chain.null
    fits = segmenter.chain.knows_presence if own is None else own.features == settings.feature_identity()
    if fits or not needs_null(settings):
        return None

    def read() -> Iterator[Any]:
        names = iter(sorted(data.names, key=lambda name: hashlib.sha256(name.encode()).digest()))
        for name in itertools.islice(names, ENOUGH):
            with contextlib.suppress(OSError, MaskError):
                yield data.load(name)[0]

    null = None
    if processes.first:
        build = functools.partial(Presence.build, segmenter, read(), settings=settings)
        null = kept_or_learned(segmenter, settings, build, folder / KEPT, resume)
    return processes.gather(null)[0]


def _is_ours(path: Path) -> bool:
    from ..errors import FileFormatError
    from ..steps import Presence

    try:
        Presence.load(path)
    except FileFormatError:
        return False
    return True
