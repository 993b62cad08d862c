"""``sclip segment``: masks for files, folders, patterns and URLs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .drawing import Colors, MinArea, Opacity, PictureFormat, Stretch, Style, read_colors
from .exporting import Exports, Formats, RegionsOf, beside_each_picture, split_formats
from .names import embed_list
from .options import Device, Dtype, Labelled, Labels, Model, make_segmenter, parse_labels_option, tell_of_long_bank
from .pictures import MaxPixels, NamedPicture, find_pictures, limit_pixels, with_stems
from .presence import learn_if_asked
from .ray import Ray, segment_on_ray
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, shown, tell

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


@with_settings()
def segment(
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (searched for pictures), patterns like '*.jpg', or URLs; '-' reads such names from "
            "standard input, one a line."
        ),
    ],
    labels: Labels = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; created if missing.")] = Path("out"),
    model: Model = DEFAULT_MODEL,
    formats: Formats = None,
    regions: RegionsOf = None,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Also write a heat map of every label.")] = False,
    opacity: Opacity = 0.55,
    style: Style = "fill",
    colors: Colors = None,
    stretch: Stretch = False,
    min_area: MinArea = 0,
    picture_format: PictureFormat = "png",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip pictures that have complete results with the same settings."),
    ] = False,
    max_pixels: MaxPixels = None,
    ray: Ray = None,
    files: Annotated[bool, typer.Option("--files", help="With --ray: also write the files of each picture.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="With --ray: repeat pictures that failed before.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Segment pictures by labels.

    Writes for each picture NAME.overlay.png (the picture in colours, with a legend), NAME.labels.png (a palette picture
    whose values are the labels' indices) and NAME.json (labels, areas, scores, settings, the picture's path and hash,
    and the files that belong to it); with --format also what other programs read. What was done is printed on standard
    output, everything else on standard error.

    With --ray the results are rows of Parquet in OUT/results.parquet, pictures may lie in .parquet and .tar files, and
    the same command goes on where it was stopped.

    Exit code: 0 if all pictures were segmented, 1 if some failed, 2 if all failed or nothing could start.

    Example: sclip segment photo.jpg --labels "cat, remote control, sofa" --model demo
    """
    from ..storage.files import check_writable, sweep

    limit_pixels(max_pixels)
    parsed = parse_labels_option(labels)
    asked.check_labels(parsed, named=True)
    if isinstance(parsed, str) and (formats or heatmaps or ray is not None):
        from ..errors import SettingError

        raise SettingError(
            "--labels @auto gives each picture labels of its own, and --format, --heatmaps and --ray want the same "
            "labels for all: run 'sclip names' first, and give its words with --labels."
        )
    if ray is not None:
        unused = {
            "--format": formats, "--regions": regions, "--heatmaps": heatmaps, "--stretch": stretch, "--colors": colors,
            "--min-area": min_area, "--style": style != "fill",
            "--opacity": opacity != 0.55, "--picture-format": picture_format != "png",
        }  # fmt: skip
        segment_on_ray(
            ray, pictures, parsed, out, asked.changes, unused, quiet, as_json, model=model, preset=asked.preset,
            device=device, dtype=dtype, files=files, retry=retry,
        )  # fmt: skip
        return
    if files or retry:
        from ..errors import SettingError

        raise SettingError("--files and --retry go with --ray; without it files are written, and --resume goes on.")
    wanted = split_formats(formats, regions)
    drawn = {
        "opacity": opacity, "style": style, "colours": read_colors(colors), "stretch": stretch,
        "picture_format": picture_format,
    }  # fmt: skip
    found = find_pictures(pictures, out)
    check_writable(out)
    sweep(out)
    segmenter = make_segmenter(model, device, dtype, asked.preset, **asked.changes)
    if not quiet:
        if found.left_out():
            tell(f"not looked at: {found.left_out()}")
        if model == "demo":
            tell("demo is a small model that knows drawn things only; for photographs name another with --model.")
    learn_if_asked(segmenter, found.pictures, out, resume)
    run = _Run(segmenter, model, parsed, out, wanted, heatmaps, drawn, min_area, resume, quiet, as_json)
    run.prepare()
    run.all(with_stems(found.pictures))


class _Run:
    """One call of the command: what is done with each picture, and what came of it."""

    def __init__(
        self,
        segmenter: Segmenter,
        model: str,
        classes: Labelled | None,
        out: Path,
        formats: dict[str, dict[str, Any]],
        heatmaps: bool,
        drawn: dict[str, Any],
        min_area: int,
        resume: bool,
        quiet: bool,
        as_json: bool,
    ) -> None:
        from ..segment.results import file_names
        from ..text.labels import Vocabulary, parse_labels

        self.segmenter = segmenter
        self.classes = classes
        self.out = out
        self.heatmaps = heatmaps
        self.drawn = drawn
        self.min_area = min_area
        self.resume = resume
        self.quiet = quiet
        self.as_json = as_json
        identity = {
            "model": model,
            "dtype": segmenter.dtype,
            "labels": classes.labels if isinstance(classes, Vocabulary) else classes,
            **drawn,
            "min_area": min_area,
            **beside_each_picture(formats),
            **segmenter.settings.plain(),
            "identity": segmenter.identity(classes),
        }
        self.settings = json.loads(json.dumps(identity))
        self.vocabulary = segmenter.vocabulary
        if classes and not isinstance(classes, str):  # a text is @auto: no labels before a picture is seen
            self.vocabulary = parse_labels(classes, segmenter.settings.background)
        labels = self.vocabulary.labels if self.vocabulary else ()
        self.exports = Exports(out, labels, formats)
        self.kinds = file_names("", labels, heatmaps, drawn["picture_format"])
        self.done = self.skipped = 0
        self.failed: list[tuple[str, str]] = []

    def prepare(self) -> None:
        """Embed the labels."""
        if isinstance(self.classes, str):
            embed_list(self.segmenter, self.classes, self.quiet)
            return
        assert self.vocabulary is not None, "check_labels comes first"
        if not self.quiet:
            tell_of_long_bank(len(self.vocabulary.names), len(self.segmenter.settings.templates))
        self.segmenter.text_embeddings(self.classes)

    def all(self, pictures: list[tuple[NamedPicture, str]]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, redirect_stdout=os.isatty(1),
            disable=self.quiet or len(pictures) == 1 or not console.is_terminal,
        )  # fmt: skip
        stopped = ""
        self.exports.check({stem for _, stem in pictures})
        with progress:
            task = progress.add_task("segmenting", total=len(pictures))
            try:
                for picture, stem in pictures:
                    progress.update(task, description=shown(picture.relative.name))
                    self.one(picture, stem)
                    progress.advance(task)
            except KeyboardInterrupt:
                stopped = "stopped"
            except _CannotWrite as error:
                stopped = f"stopped, since nothing can be written any more: {error.__cause__}"
        try:
            self.tell_of_exports(self.exports.close())
        except OSError as error:
            stopped = stopped or f"stopped, since an export can't be written: {error}"
        self.report(len(pictures), stopped)

    def one(self, picture: NamedPicture, stem: str) -> None:
        from ..errors import SclipError
        from ..imaging.pictures import read_picture
        from ..segment.results import check_own, is_whole, source_of

        try:
            with picture.open() as file:
                source = source_of(file, picture.given)
                replaced = check_own(self.out, stem, self.kinds.values(), source)
                if replaced:
                    tell(
                        f"warning: {self.out / stem}.json is of {replaced}, and is replaced by that of {picture.given}"
                    )
                path = self.out / f"{stem}.json"
                if self.resume and is_whole(path, self.settings, source, list(self.kinds)):
                    self.exports.recall(stem, picture.given, file)
                    self.skipped += 1
                    self.tell_of(picture, "skipped", json=str(path))
                    return
                rgb = read_picture(file)
                rgb.filename = picture.given  # type: ignore[attr-defined]  # which an open file does not say
            result = self.segmenter(rgb, self.classes).cleaned(self.min_area)
            del rgb  # the result has its own; of a large picture one is enough
        except (SclipError, OSError, MemoryError) as error:
            self.fail(picture, error)
            return
        result.settings = self.settings
        try:
            exported = self.exports.add(result, stem, picture.given)  # before the JSON, which speaks for them
            written = result.save(self.out, stem, heatmaps=self.heatmaps, source=source, **self.drawn)
        except OSError as error:
            raise _CannotWrite from error
        except SclipError as error:
            self.fail(picture, error)
            return
        self.done += 1
        # Not from the JSON: another process may have put its own there by now.
        labels = [{k: row[k] for k in ("label", "area", "presence") if k in row} for row in result.rows()]
        files = {kind: str(path) for kind, path in written.items() if kind != "json"}
        more = {"exported": exported} if exported else {}
        self.tell_of(picture, "done", json=str(written["json"]), files=files, labels=labels, **more)

    def fail(self, picture: NamedPicture, error: Exception) -> None:
        self.failed.append((picture.given, str(error) or type(error).__name__))
        self.tell_of(picture, "failed", error=self.failed[-1][1])

    def tell_of(self, picture: NamedPicture, status: str, **more: Any) -> None:
        """What came of a picture: a line of JSON, or words."""
        if self.as_json:
            say(json.dumps({"picture": picture.given, "status": status, **more}))
        elif self.quiet or status == "failed":
            return  # `report` names it
        elif status == "skipped":
            tell(f"{picture.given}: done before, see {more['json']}")
        else:
            areas = sorted(more["labels"], key=lambda entry: -entry["area"])
            shares = ", ".join(
                f"{entry['label']} {100 * entry['area']:.0f} %" for entry in areas if entry["area"] >= 0.005
            )
            gone = [e["label"] for e in areas if e.get("presence") is not None and e["presence"] < 0.5]
            absent = f"; not there: {', '.join(gone[:5])}{f' and {len(gone) - 5} more' if len(gone) > 5 else ''}"
            words = f"{shares or 'nothing labelled'}{absent if gone else ''}"
            say(f"{picture.given}: {words} -> {more['files']['overlay']}")

    def tell_of_exports(self, files: dict[str, list[str]]) -> None:
        """Which files hold all pictures."""
        if files and self.as_json:
            say(json.dumps({"status": "exported", "formats": files}))
        elif not self.quiet:
            for format, paths in files.items():
                say(f"{format}: {', '.join(paths)}")

    def report(self, count: int, stopped: str) -> None:
        """The last words, and the exit code."""
        if not self.quiet and (count > 1 or self.skipped):
            tell(f"{self.done} done, {self.skipped} skipped, {len(self.failed)} failed")
        for name, reason in self.failed:
            tell(f"failed: {reason if name in reason else f'{name}: {reason}'}")
        if stopped:
            left = count - self.done - self.skipped - len(self.failed)
            tell(f"{stopped}; {left} of {count} left: the same command with --resume goes on.")
            raise typer.Exit(130 if stopped == "stopped" else 1)
        if self.failed:
            raise typer.Exit(1 if self.done or self.skipped else 2)


class _CannotWrite(Exception):
    """The folder for results can't be written; its cause says why."""
