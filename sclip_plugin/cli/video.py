"""``sclip video``: labels or search over a video, a table and an overlay video."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .drawing import Colors, Opacity, Style, read_colors
from .names import embed_list
from .options import Device, Dtype, Labels, Model, make_segmenter, parse_labels_option, tell_of_long_bank
from .presence import ENOUGH, kept_or_learned, needs_null
from .settings import Asked, with_settings
from .terminal import AsJson, Quiet, say, tell

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter
    from ..steps import Presence
    from ..video.reading import Video
    from ..video.searching import Moment

MARK = "sclip_plugin result"
SHOWN = 20  # moments that are printed; the table has all
NAMED = 20  # frames that are named for @auto
LABEL_COLUMNS = ("time", "frame", "label", "index", "share", "score", "presence")
WORD_COLUMNS = ("time", "frame", "word", "score", "presence", "left", "top", "right", "bottom", "moment")


@with_settings("masks")
def video(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video, in any form that FFmpeg reads.")],
    labels: Labels = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="In place of labels: what to find, \"red umbrella\". Between commas all have to be there; '|' joins "
            "synonyms."
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second to segment: 0.1 is one in ten seconds.")] = 1.0,
    smoothing: Annotated[
        float,
        typer.Option(help="Weight of earlier frames in each frame's scores, from 0 to below 1, against flicker."),
    ] = 0.0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; created if missing.")] = Path("out"),
    model: Model = DEFAULT_MODEL,
    opacity: Opacity = 0.55,
    style: Style = "fill",
    colors: Colors = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
    *,
    asked: Asked,
) -> None:
    """Segment a video by labels, or find the moments and places that show given words.

    With --labels: NAME.labels.csv has for each frame that is looked at the share of each label and its mean score, and
    NAME.overlay.mp4 shows these frames in colours, with a legend.

    With --search: the moments in which the words are seen are printed, the best first. NAME.search.csv has for each
    frame and word the score, the presence, the box of its place, and the moment's rank where it is in one;
    NAME.search.mp4 outlines the places in the moments, and fades the rest.

    The output video has no sound and runs at --fps frames per second, so it lasts as long as the input.

    Exit code: 0, or 1 if the video is broken somewhere (what could be read is in the results), 2 if nothing could
    start.

    Example: sclip video film.mp4 --labels "cat, sofa, person" --fps 2 --model demo
    """
    from ..errors import SettingError
    from ..segment.smoothing import MovingMean
    from ..storage.files import check_writable, sweep
    from ..text.labels import parse_labels
    from ..video.reading import Video, checked_rate

    if search is not None and labels is not None:
        raise SettingError("--labels and --search were both given; expected one: labels segment, search finds moments.")
    of_labels = {"smoothing": smoothing, "style": style != "fill", "opacity": opacity != 0.55}
    of_labels |= {name: name in asked.changes for name in ("background", "ignore", "threshold", "refine", "steps")}
    if search is not None and any(of_labels.values()):
        unused = next(name for name, value in of_labels.items() if value)
        raise SettingError(f"--{unused} is about --labels; with --search leave it out.")
    checked_rate(fps)
    MovingMean(smoothing)
    parsed = parse_labels_option(labels) if search is None else parse_labels_option(search, "--search")
    if search is None and labels is None and asked.preset is None:
        raise SettingError("neither --labels nor --search was given; expected one of them, or a --preset with labels.")
    asked.check_labels(parsed, named=search is None)
    drawn = {"opacity": opacity, "style": style, "colours": read_colors(colors)}
    opened = Video(file)
    files = _files_of(opened, out, search is not None)
    check_writable(out)
    sweep(out)
    segmenter = make_segmenter(model, device, dtype, asked.preset, **asked.changes)
    if isinstance(parsed, str):
        parsed = _words_of(segmenter, opened, parsed, fps, quiet)
    if not quiet:
        vocabulary = segmenter.vocabulary if parsed is None else parse_labels(parsed, segmenter.settings.background)
        assert vocabulary is not None, "a preset has labels"
        tell_of_long_bank(len(vocabulary.names), len(segmenter.settings.templates))
        if model == "demo":
            tell("demo is a small model that knows drawn things only; for photographs name another with --model.")
    if search is None and not segmenter.chain.knows_presence and needs_null(segmenter.settings):
        null = kept_or_learned(segmenter, segmenter.settings, lambda: _learned(segmenter, opened, fps), files["null"])
        segmenter.settings = segmenter.settings.changed(present=null)
    files.pop("null", None)
    run = _Run(segmenter, opened, parsed, fps, files, drawn, quiet, as_json)
    if search is None:
        run.segment(smoothing)
    else:
        run.search()
    if run.broken:
        raise typer.Exit(1)


def _words_of(segmenter: Segmenter, video: Video, labels: str, fps: float, quiet: bool) -> list[list[str]]:
    """``@auto`` for a video: what is found in some twenty of its frames, which is offered in all of them."""
    from collections import Counter

    from ..errors import LabelError
    from ..text.wordlist import auto_of

    embed_list(segmenter, labels, quiet)
    frames = list(itertools.islice(video.frames(min(fps, NAMED / (video.duration or NAMED)), lambda _: None), NAMED))
    counts = Counter(name.word for frame in frames for name in segmenter.names(frame.picture, labels=labels))
    offered = [list(names) for names in auto_of(labels).offered]
    words = [word for word, _ in counts.most_common() if not any(word == names[0] for names in offered)]
    if not offered and not words:
        raise LabelError(f"no word of the list was found in {len(frames)} frames of {video.path}; name some.")
    if not quiet:
        tell(f"found in {len(frames)} frames: {', '.join(words) or 'nothing'}")
    return [*offered, *([word] for word in words)]


class _Run:
    """One call of the command."""

    def __init__(
        self,
        segmenter: Segmenter,
        video: Video,
        asked: Any,
        fps: float,
        files: dict[str, str],
        drawn: dict[str, Any],
        quiet: bool,
        as_json: bool,
    ) -> None:
        self.segmenter = segmenter
        self.video = video
        self.asked = asked
        self.fps = fps
        self.drawn = drawn
        self.quiet = quiet
        self.as_json = as_json
        self.files = files
        self.comment = _comment(video)
        self.broken: list[str] = []

    def segment(self, smoothing: float) -> None:
        from ..storage.files import atomic_path
        from ..video.segmenting import segment_video
        from ..video.writing import Canvas, write_video

        stream = segment_video(
            self.segmenter, self.video.path, self.asked, fps=self.fps, smoothing=smoothing, report=self.broken.append
        )
        files = self.files
        canvas, count = None, 0
        areas: dict[str, float] = {}
        with contextlib.ExitStack() as stack:
            rows = self._rows(stack.enter_context(atomic_path(files["table"])), stack)
            overlay = stack.enter_context(write_video(files["overlay"], self.fps, self.comment))
            advance = stack.enter_context(self._progress("segmenting"))
            rows.writerow(LABEL_COLUMNS)
            for frame, result in stream:
                canvas = canvas or Canvas(frame.picture.size, result.labels, self.drawn["colours"])
                said = result.rows()
                overlay.add(canvas(result.overlay(legend=False, **self.drawn), result.areas()))
                for row in said:
                    label, share = row["label"], row["area"]
                    numbers = ["" if row.get(k) is None else f"{row[k]:.4f}" for k in ("score", "presence")]
                    rows.writerow([f"{frame.time:.3f}", frame.index, label, row["index"], f"{share:.6f}", *numbers])
                    areas[label] = areas.get(label, 0.0) + share
                count += 1
                advance(count)
                if self.as_json:
                    say(json.dumps({"time": frame.time, "frame": frame.index, "labels": said}))
        listed = sorted(areas.items(), key=lambda entry: -entry[1])
        words = ", ".join(f"{label} {100 * area / count:.0f} %" for label, area in listed if area / count >= 0.005)
        self._report(count, words or "nothing labelled", files)

    def search(self) -> None:
        from ..index.sheet import outlined, places
        from ..storage.files import atomic_path
        from ..video.searching import moments, search_frames
        from ..video.writing import Canvas, write_video

        stream = search_frames(self.segmenter, self.video.path, self.asked, fps=self.fps, report=self.broken.append)
        with self._progress("searching") as advance:
            seen = []
            for each in stream:
                seen.append(each)
                advance(len(seen))
        files = self.files
        found = moments(seen, self.fps)
        ranks = [_rank(each.time + 0.5 / self.fps, found) for each in seen]
        words = list(seen[0].hit.scores)
        with contextlib.ExitStack() as stack:
            rows = self._rows(stack.enter_context(atomic_path(files["table"])), stack)
            overlay = stack.enter_context(write_video(files["overlay"], self.fps, self.comment))
            advance = stack.enter_context(self._progress("drawing"))
            rows.writerow(WORD_COLUMNS)
            colours = self.drawn["colours"]
            canvas = Canvas(seen[0].hit.size[::-1], words, colours)
            # What is shown where is known at the end only, so the frames are read a second time.
            for frame, each, rank in zip(self.video.frames(self.fps, lambda _: None), seen, ranks, strict=False):
                for word, score in each.hit.scores.items():
                    there = (each.hit.presence or {}).get(word)
                    numbers = [f"{score:.4f}", "" if there is None else f"{there:.4f}"]
                    rows.writerow([f"{each.time:.3f}", each.index, word, *numbers, *each.hit.boxes[word], rank or ""])
                shown = outlined(frame.picture, places(each.hit), words, colours) if rank else frame.picture
                overlay.add(canvas(shown, each.hit.scores))
                advance(len(seen))
        for rank, moment in enumerate(found[:SHOWN], start=1):
            if self.as_json:
                say(json.dumps({"rank": rank, **moment.to_dict()}))
            elif not self.quiet:
                left, top, right, bottom = moment.hit.box
                box = f"{right - left} x {bottom - top} at {left}, {top}" if moment.hit.is_there else "not there"
                say(
                    f"{moment.score:6.3f}  {moment.start:.1f} to {moment.end:.1f} s, best at {moment.time:.1f} s  {box}"
                )
        if not any(moment.hit.is_there for moment in found):
            tell("nothing like it was found: these moments are the best of none.")
        more = f", {len(found) - SHOWN} more in the table" if len(found) > SHOWN else ""
        self._report(len(seen), f"{len(found)} moment{'s' * (len(found) != 1)}{more}", files)

    def _rows(self, path: str | Path, stack: contextlib.ExitStack) -> Any:
        """A table that is written row by row."""
        file = stack.enter_context(open(path, "w", newline="", encoding="utf-8", errors="backslashreplace"))
        return csv.writer(file)

    @contextlib.contextmanager
    def _progress(self, what: str) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        total = None if self.video.duration is None else max(1, round(self.video.duration * self.fps))
        progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, redirect_stdout=os.isatty(1),
            disable=self.quiet or not console.is_terminal,
        )  # fmt: skip
        with progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)

    def _report(self, count: int, what: str, files: dict[str, str]) -> None:
        for problem in self.broken:
            tell(f"warning: {problem}")
        if self.as_json:
            say(json.dumps({"video": str(self.video.path), "status": "done", "frames": count, "files": files}))
        elif not self.quiet:
            say(f"{self.video.path}: {count} frame{'s' * (count != 1)}, {what} -> {', '.join(files.values())}")


def _learned(segmenter: Segmenter, video: Video, fps: float) -> Presence:
    """The null of frames at equal distances, so that an answer does not depend on the frames before."""
    from ..steps import Presence
    from ..video.reading import spread

    frames = spread(video.frames(fps, lambda _: None), ENOUGH)
    return Presence.build(segmenter, [frame.picture for frame in frames])


def _comment(video: Video) -> str:
    """What an overlay video says of itself: which film it shows, without the folders that lead there."""
    return f"{MARK} of {video.path.name}, {video.path.stat().st_size} bytes"


def _files_of(video: Video, out: Path, search: bool) -> dict[str, str]:
    """The table and the overlay video.

    Raises:
        SettingError: one of them is there, and of another film, or somebody else's.
    """
    from ..errors import SettingError
    from ..steps.presence import KEPT
    from ..video.writing import comment_of

    table, overlay = ("search.csv", "search.mp4") if search else ("labels.csv", "overlay.mp4")
    files = {"table": out / f"{video.path.stem}.{table}", "overlay": out / f"{video.path.stem}.{overlay}"}
    if files["overlay"].exists():
        of = comment_of(files["overlay"]) or "no result of this program"
        if of != _comment(video):
            raise SettingError(
                f"{files['overlay']} would be replaced, and is {of.removeprefix(MARK).strip()}; give another --out, or "
                "move it away."
            )
    if files["table"].exists():
        columns = WORD_COLUMNS if search else LABEL_COLUMNS
        with open(files["table"], "rb") as file:
            ours = file.readline(200).decode("utf-8", "replace").strip() == ",".join(columns)
        if not ours:
            raise SettingError(
                f"{files['table']} would be replaced, and is no result of this program; give another --out, or move it "
                "away."
            )
    return {kind: str(path) for kind, path in files.items()} | {"null": str(out / f"{video.path.stem}.{KEPT}")}


def _rank(time: float, found: list[Moment]) -> int | None:
    """The rank of the moment that a time is in, from 1 on; None where it is in none."""
    return next((rank for rank, each in enumerate(found, start=1) if each.start <= time < each.end), None)
