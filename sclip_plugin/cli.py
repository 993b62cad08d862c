"""The command line: ``sclip segment``, ``demo``, ``methods``, ``compare``, ``eval``, ``convert``.

Nothing heavy is imported before a command needs it, so ``--help`` is quick.
"""

from __future__ import annotations

import glob
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .evaluation.cli import convert_app, eval_app

if TYPE_CHECKING:
    from .segmenter import Segmenter

DEFAULT_MODEL = "openai/clip-vit-base-patch16"
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2"}

app = typer.Typer(
    help="Segment pictures into any classes named in words, with a frozen CLIP and no training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        "-l",
        help="Names between commas; '|' joins synonyms of one class: \"cat, remote control, sofa|couch\". "
        "@FILE reads them from a text file, one class a line.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A hub id or folder of transformers; open_clip:ARCH/PRETRAINED; open_clip:ARCH@FILE; timm:NAME; "
        "or demo, the small CLIP that ships with the package and works offline.",
    ),
]
MethodName = Annotated[
    str, typer.Option("--method", help="What replaces the last block's attention; see 'sclip methods'.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default CUDA where there is one.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, float16, bfloat16; auto: half precision where it is faster.")
]
Window = Annotated[
    int | None, typer.Option(min=0, help="Side of the windows in pixels; 0: the whole picture in one pass.")
]
Resize = Annotated[
    int | None, typer.Option("--resize", min=0, help="Short side the picture is resized to; 0: not resized.")
]
Background = Annotated[bool, typer.Option("--background", help="Add one more class for everything else.")]
Refine = Annotated[bool, typer.Option("--refine", help="Sharpen along the picture's colours (PAMR, 10 steps).")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False) -> None:
    if version:
        typer.echo(f"sclip_plugin {__version__}")
        raise typer.Exit()


@app.command()
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
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave pixels with a lower best score unlabelled.")
    ] = None,
    refine: Refine = False,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Write a heat map of every label, too.")] = False,
    window: Window = None,
    resize: Resize = None,
    templates: Annotated[
        str, typer.Option(help="Prompts: imagenet (80 templates), plain (one), or your own text with {} for the name.")
    ] = "imagenet",
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

    parsed = _parse_labels(labels)
    todo = _with_stems(_find_pictures(pictures))
    settings = _given(
        background=background, threshold=threshold, window=window, resize_short_side=resize, templates=templates
    )
    if refine:
        settings["pamr_steps"] = 10
    segmenter = _segmenter(model, method, device, dtype)
    chosen = segmenter.settings.changed(**settings)
    shown = {"model": model, "dtype": segmenter.dtype, "labels": _class_names(parsed, background), **chosen.plain()}
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
                    result = segmenter(path, parsed, **settings)
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


@app.command()
def compare(
    picture: Annotated[str, typer.Argument(help="The picture.")],
    labels: Labels,
    methods: Annotated[str, typer.Option(help="Methods between commas; 'all' for every one.")] = (
        "vanilla,csa,clearclip,naclip,resclip"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    model: Model = DEFAULT_MODEL,
    background: Background = False,
    refine: Refine = False,
    window: Window = None,
    resize: Resize = None,
    device: Device = None,
) -> None:
    """Write one picture with several methods side by side, each with its time.

    Example: sclip compare photo.jpg --labels "cat, sofa" --methods csa,clearclip,naclip,resclip --model demo
    """
    from . import drawing, sheet
    from .files import save_image
    from .methods import list_methods, make_method
    from .pictures import read_picture

    names = list_methods() if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    chosen = [make_method(name) for name in names]
    parsed = _parse_labels(labels)
    settings = _given(background=background, window=window, resize_short_side=resize)
    if refine:
        settings["pamr_steps"] = 10
    segmenter = _segmenter(model, "csa", device)
    shown = read_picture(picture)
    segmenter(shown, parsed, **settings)  # the text bank and the first-call costs are no method's own
    panels = [("picture", shown)]
    for name, method in zip(names, chosen, strict=True):
        start = time.perf_counter()
        result = segmenter(shown, parsed, method=method, **settings)
        seconds = time.perf_counter() - start
        panels.append((f"{name}, {seconds:.2f} s", result.overlay(legend=False)))
    colours = drawing.palette(len(result.labels))
    legend = [(label, tuple(int(v) for v in colours[i])) for i, label in enumerate(result.labels)]
    save_image(sheet.side_by_side(panels, legend=legend), out)
    typer.echo(str(out))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("sclip-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Which scene is drawn; 2 is one of the clearer ones.")] = 2,
    method: MethodName = "csa",
) -> None:
    """Draw a scene, segment it by its labels with the CLIP that ships with the package, and write the pictures.

    Needs no network. The scene was not seen in training, and no mask ever was.
    """
    from .demo import draw_scene
    from .drawing import overlay
    from .evaluation.metric import IoUTotals
    from .files import save_image

    scene = draw_scene(seed)
    segmenter = _segmenter("demo", method, None)
    result = segmenter(scene.picture, list(scene.labels))
    paths = result.save(out, "scene", heatmaps=True)
    save_image(scene.picture, out / "scene.png")
    save_image(overlay(scene.picture, scene.label_map, scene.labels), out / "scene.truth.png")
    totals = IoUTotals(len(scene.labels))
    totals.add(result.label_map, scene.label_map)
    typer.echo(f"A scene of: {', '.join(scene.labels)}")
    typer.echo(f"mIoU with {method}: {100 * totals.miou:.1f} % (the truth is known, since the scene was drawn)")
    for name, path in (
        ("picture", out / "scene.png"),
        ("segmented", paths["overlay"]),
        ("truth", out / "scene.truth.png"),
    ):
        typer.echo(f"{name:>10}: {path}")
    typer.echo(f'\nNext, your own: sclip segment PICTURE --labels "cat, sofa" (fetches {DEFAULT_MODEL} once)')


@app.command()
def methods() -> None:
    """List the methods: what each computes, its options with their defaults, its paper."""
    import dataclasses

    from .methods import METHODS, list_methods

    for name in list_methods():
        cls = METHODS[name]
        own = {f.name: f.default for f in dataclasses.fields(cls) if f.repr and f.name != "position_resize"}
        options = ", ".join(
            f"{key}={value!r}" for key, value in own.items() if not isinstance(value, type(dataclasses.MISSING))
        )
        typer.echo(f"{name}\n    {cls.summary}\n    options: {options}\n    {cls.source}")


_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def _given(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _parse_labels(text: str) -> list[list[str]]:
    """The command line's form of labels: commas between classes, bars between synonyms, @FILE with a class a line."""
    from .errors import LabelError
    from .text import parse_labels

    if text.startswith("@"):
        try:
            entries = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise LabelError(f"the labels' file {text[1:]} can't be read: {error.strerror}") from error
    else:
        entries = text.split(",")
    classes = [[name.strip() for name in entry.split("|") if name.strip()] for entry in entries]
    classes = [names for names in classes if names]
    if not classes:
        raise LabelError('--labels holds no names; expected some such as --labels "cat, remote control, sofa|couch".')
    parse_labels(classes)  # a label given twice is said before a model is fetched
    return classes


def _class_names(classes: list[list[str]], background: bool) -> list[list[str]]:
    return [*classes, ["background"]] if background else classes


def _find_pictures(arguments: list[str]) -> list[tuple[Path, Path]]:
    """Each picture with its name relative to the folder that was named, or its own name."""
    from .errors import PictureError

    found: list[tuple[Path, Path]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
            found += [(p, p.relative_to(path)) for p in inside]
        elif not path.exists() and glob.has_magic(argument):
            matches = sorted(Path(p) for p in glob.glob(argument, recursive=True))
            found += [(p, Path(p.name)) for p in matches if p.is_file()]
        else:
            found.append((path, Path(path.name)))  # a file that is missing is reported with the others
    if not found:
        raise PictureError(
            f"no pictures in {', '.join(arguments)}; expected files, folders with pictures, or patterns."
        )
    return list(dict.fromkeys(found))


def _with_stems(pictures: list[tuple[Path, Path]]) -> list[tuple[Path, str]]:
    """Names for the results: the picture's without its suffix, with it where two would be the same."""
    stems = Counter(str(relative.with_suffix("")) for _, relative in pictures)
    used: Counter[str] = Counter()
    named = []
    for path, relative in pictures:
        stem = str(relative.with_suffix(""))
        stem = stem if stems[stem] == 1 else str(relative)
        used[stem] += 1
        named.append((path, stem if used[stem] == 1 else f"{stem}.{used[stem]}"))
    return named


def _finished(path: Path, identity: dict[str, Any]) -> bool:
    try:
        # Files from before dtype was among the settings are in single precision.
        return {"dtype": "float32", **json.loads(path.read_text(encoding="utf-8"))["settings"]} == identity
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _segmenter(model: str, method: str, device: str | None, dtype: str | None = None) -> Segmenter:
    from .methods import make_method
    from .segmenter import Segmenter

    make_method(method)  # a misspelt method is said before a model is fetched
    try:
        from transformers.utils import logging
    except ImportError:
        pass
    else:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return Segmenter.from_pretrained(model, device=device, dtype=dtype, method=method)


class _Command:
    """The program: what users got wrong ends in one sentence, not in a traceback."""

    def __call__(self) -> None:
        import warnings

        warnings.showwarning = lambda message, *rest: typer.echo(f"warning: {message}", err=True)
        try:
            app()
        except (OSError, ValueError, TypeError) as error:
            if not _is_ours(error):
                raise
            typer.echo(f"error: {error}", err=True)
            sys.exit(2)


def _is_ours(error: Exception) -> bool:
    from . import errors

    return type(error).__module__.startswith(errors.__name__.rpartition(".")[0]) or isinstance(error, OSError)


app.add_typer(eval_app, name="eval")
app.add_typer(convert_app, name="convert")

run = _Command()

if __name__ == "__main__":
    run()
