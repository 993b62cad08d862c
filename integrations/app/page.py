"""What the page does, without the page: pictures that were looked at, questions, regions that are hidden or renamed."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from sclip_plugin.demo import draw_scene
from sclip_plugin.errors import PictureError, SclipError
from sclip_plugin.imaging.regions import region_at
from sclip_plugin.importing import needs
from sclip_plugin.index.collection import Index
from sclip_plugin.index.sheet import with_places
from sclip_plugin.methods import list_methods
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmentation import Segmentation
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.steps.short import SHORT_FORMS, value_of

from ..serve.visitors import Kept, Limits, labels_of, picture_of, words_of
from .lessons import Lessons, key_of

SMALLEST, LARGEST = 640, 1600
"""Longer side of what is shown, in pixels: smaller pictures are enlarged by a whole factor, larger ones reduced."""
LEARNT = "learnt.safetensors"
"""What the file of learnt labels is called."""
MOST_OTHERS = 12
"""Other pictures that a visitor may have."""
MOST_FOUND, FOUND_SIDE = 100, 960
"""How many pictures a search shows at most, and their longer side in pixels."""


@dataclass
class Visit:
    """What one visitor has in front of them.

    Fields:
        picture: RGB; None before there is one.
        name: of its file, or of the drawn scene.
        seed: of the drawn scene; None if the picture is the visitor's.
        refusal: why the last picture was not taken; empty if it was.
        result: what the model said; ``shown`` is that with the visitor's edits.
        other: what it said by the method beside.
        question: what it was asked: words, settings, the method beside.
        edits: regions, (H, W) of bool, and the label that each was given; None: hidden.
        selected: the region that was clicked.
        offered: labels of the last drawn scene that were offered as words.
        note: what the page says when no mistake was made.
        lessons: what the visitor taught.
        others: other pictures, reduced, which the question is answered for too, with their names.
        files: where downloads lie until there are others, or the visitor is gone.
    """

    picture: PIL.Image.Image | None = None
    name: str = ""
    seed: int | None = None
    refusal: str = ""
    result: Segmentation | None = None
    other: Segmentation | None = None
    question: tuple[Any, ...] = ()
    edits: list[tuple[np.ndarray, str | None]] = field(default_factory=list)
    selected: np.ndarray | None = None
    offered: list[str] = field(default_factory=list)
    note: str = ""
    lessons: Lessons = field(default_factory=Lessons)
    others: list[tuple[PIL.Image.Image, str]] = field(default_factory=list)
    files: tempfile.TemporaryDirectory[str] | None = None

    def take(self, picture: PIL.Image.Image | None, name: str = "", seed: int | None = None, refusal: str = "") -> None:
        """Have another picture, or none; what belonged to the one before goes."""
        self.picture, self.name, self.seed, self.refusal, self.edits = picture, name, seed, refusal, []
        self.answer(None)

    def answer(
        self, result: Segmentation | None, other: Segmentation | None = None, question: tuple[Any, ...] = ()
    ) -> None:
        """Have another result for the same picture; edits stay, the selection goes."""
        self.result, self.other, self.selected, self.question = result, other, None, question

    @property
    def shown(self) -> Segmentation:
        """The result with the visitor's edits.

        Raises:
            PictureError: there is no result yet.
        """
        if self.result is None:
            raise PictureError("there is no result yet: give a picture and some words first.")
        if not self.edits:
            return self.result
        labels, label_map = list(self.result.labels), self.result.label_map.copy()
        for region, label in self.edits:
            if label is not None and label not in labels:
                labels.append(label)
            label_map[region] = -1 if label is None else labels.index(label)
        scores = self.result.scores if len(labels) == len(self.result.labels) else None
        return Segmentation(labels, label_map, self.result.picture, scores, self.result.settings)


@dataclass(frozen=True)
class Place:
    """What lies at a pixel: its label (None: no label), the share of the picture that its region covers, and the best
    words there with their scores."""

    label: str | None
    area: float
    best: list[tuple[str, float]]


class Page:
    """One model for all visitors: it is asked by one at a time, and remembers the pictures that it saw last.

    Args:
        segmenter: asked by this page alone.
        model: its name, for commands that do the same.
        limits: what a visitor may ask for.
        index: a collection to search; None where there is none.
    """

    def __init__(
        self, segmenter: Segmenter, model: str, limits: Limits | None = None, index: Index | None = None
    ) -> None:
        self.segmenter, self.model, self.limits, self.index = segmenter, model, limits or Limits(), index
        self.methods = tuple(name for name in list_methods() if self._works(name))
        self._lock = threading.Lock()
        self._seen = Kept(self.limits)

    def _works(self, name: str) -> bool:
        """Whether a method needs nothing beside the model: what a visitor types names no weights."""
        own = self.segmenter.settings
        try:
            method = self.segmenter.chosen(own, {"method": name}).make_method()
            if name == own.method_name:
                return True
            method.check_tower(self.segmenter.tower)
        except SclipError:
            return False
        return not method.needs_outside_model() and not (method.sees_regions and own.masks is None)

    def own(self, name: str) -> Any:
        """The segmenter's own value of a setting, or of a short form; False where a short form's step is not there."""
        settings = self.segmenter.settings
        if name == "method":
            return settings.method_name
        return value_of(settings.steps, name) if name in SHORT_FORMS else getattr(settings, name)

    def open(self, visit: Visit, path: Path, name: str) -> None:
        """Take a picture from a file.

        Raises:
            PictureError: none that can be read, or too large a one. The visit then has no picture.
        """
        try:
            if path.stat().st_size > self.limits.megabytes * 1e6:
                raise PictureError(f"the picture's file is too large; expected at most {self.limits.megabytes:g} MB.")
            picture = picture_of(path.read_bytes(), self.limits)
        except PictureError as error:
            visit.take(None, refusal=str(error))
            raise
        visit.take(picture, name)

    def draw(self, visit: Visit) -> list[str]:
        """Take the next drawn scene; returns its labels."""
        seed = 0 if visit.seed is None else visit.seed + 1
        scene = draw_scene(seed, scale=2)
        visit.take(scene.picture, "scene.png", seed)
        return list(scene.labels)

    def segment(
        self, picture: PIL.Image.Image, words: list[str], changes: dict[str, Any], lessons: Lessons | None = None
    ) -> Segmentation:
        """Segment a picture, from what the tower saw of it where it has seen it with these settings.

        Args:
            picture: RGB.
            words: classes, ``"sofa|couch"`` for synonyms.
            changes: settings that differ from the segmenter's.
            lessons: examples, which are learnt from first where the visitor asked for that.

        Raises:
            LabelError, SettingError: what a visitor asks for can't be had.
        """
        labels: Any = labels_of(",".join(words), self.limits)
        settings = self.segmenter.settings.changed(**changes)
        if not settings.sees_regions():
            settings = settings.changed(masks=None)
        with self._lock:
            if lessons is not None and lessons.learnt:
                labels = words_of(",".join(words), self.limits)  # what was taught has names of its own
                learnt = lessons.learn(self.segmenter, settings, labels, lambda shown: self._encoded(shown, changes))
                return self._encoded(picture, changes).segment(learnt, settings)
            if settings.make_method().needs_text:
                return self.segmenter(picture, labels, settings)
            return self._encoded(picture, changes).segment(labels, settings)

    def names(self, picture: PIL.Image.Image | None, changes: dict[str, Any]) -> list[str]:
        """What is in a picture, in words of the shipped list, with the segmenter's own settings but for ``changes``.

        Raises:
            PictureError: there is no picture.
            SettingError: the model has no null of presence for these settings.
        """
        if picture is None:
            raise PictureError("there is no picture yet: give one first.")
        with self._lock:
            return [name.word for name in self.segmenter.names(self._encoded(picture, changes))]

    def _encoded(self, picture: PIL.Image.Image, changes: dict[str, Any]) -> Encoded:
        looks = {name: value for name, value in changes.items() if name in ("method", "window", "stride")}
        settings = self.segmenter.settings.changed(**looks)
        key = f"{key_of(picture)} {settings.identity()}"
        encoded = self._seen.get(key)
        if encoded is None:
            encoded = self.segmenter.encode(picture, settings, dtype=torch.float32)
            self._seen.add(key, encoded)
        return encoded

    def search(self, words: str, without: str, top: int) -> list[tuple[PIL.Image.Image, str]]:
        """The collection's pictures that hold all words and none of the others, with the places drawn, and captions.

        Raises:
            LabelError: no words, too many, or too long ones.
        """
        assert self.index is not None, "without an index there is no tab"
        asked = words_of(words, self.limits)
        absent = words_of(without, self.limits) if without.strip() else None
        with self._lock:
            hits = self.index.search(asked, min(top, MOST_FOUND), without=absent)
        return [(with_places(hit, FOUND_SIDE)[0], f"{hit.path}  {hit.score:.3f}") for hit in hits]

    def select(self, visit: Visit, x: int, y: int) -> Place | None:
        """Select the region at a pixel; None outside the picture."""
        shown = visit.shown
        height, width = shown.size
        if not (0 <= x < width and 0 <= y < height):
            return None
        visit.selected = region_at(shown.label_map, y, x)
        index = int(shown.label_map[y, x])
        best: list[tuple[str, float]] = []
        assert visit.result is not None, "what is shown is a result"
        for (rows, columns), scores in visit.result.score_tiles():
            if rows.start <= y < rows.stop and columns.start <= x < columns.stop:
                here = scores[:, y - rows.start, x - columns.start]
                values, order = here.topk(min(5, len(here)))
                best = [(visit.result.labels[i], v) for i, v in zip(order.tolist(), values.tolist(), strict=True)]
                break
        return Place(None if index < 0 else shown.labels[index], float(visit.selected.mean()), best)

    def teach(self, visit: Visit, region: np.ndarray | None, word: str) -> None:
        """Take a region of the visit's picture as an example of a word.

        Raises:
            PictureError: no region is selected, or nothing painted; or too many pictures have examples.
            LabelError: a label that is no word, or too long a one.
        """
        if visit.picture is None or region is None:
            raise PictureError("no region is selected: click one in the result, or paint.")
        ((word, *_), *_) = words_of(word, self.limits)
        visit.lessons.add(visit.picture, region, word, self.limits.examples)
        visit.selected = None

    def add_others(self, visit: Visit, files: list[tuple[Path, str]]) -> None:
        """Other pictures that the question is answered for, in place of those before.

        Raises:
            PictureError: too many, or one that can't be read.
        """
        visit.others = []
        if len(files) > MOST_OTHERS:
            raise PictureError(f"{len(files)} other pictures; expected at most {MOST_OTHERS}.")
        for path, name in files:
            picture = picture_of(path.read_bytes(), self.limits)
            picture.thumbnail((FOUND_SIDE, FOUND_SIDE))
            visit.others.append((picture, name))

    def edit(self, visit: Visit, label: str | None) -> None:
        """Give the selected region another label, or hide it.

        Raises:
            PictureError: none is selected.
            LabelError: a label that is no word, or too long a one.
        """
        if visit.selected is None:
            raise PictureError("no region is selected: click one in the picture first.")
        if label is not None:
            ((label, *_), *_) = words_of(label, self.limits)
        visit.edits.append((visit.selected, label))
        visit.selected = None

    def learnt_file(self, visit: Visit) -> Path:
        """What was learnt, as ``sclip segment --labels @FILE`` reads it.

        Raises:
            PictureError: nothing was.
        """
        if visit.lessons.tuned is None:
            raise PictureError("nothing is learnt yet: add examples, and learn.")
        visit.files = folder = tempfile.TemporaryDirectory(prefix="sclip-")
        path = Path(folder.name) / LEARNT
        visit.lessons.tuned.save(path)
        return path

    def export(self, visit: Visit, format: str) -> Path:
        """What is shown, as one file: of a format that writes several, a ZIP of them.

        Raises:
            SclipError: no result, or what a format needs is missing.
        """
        shown = visit.shown
        folder = tempfile.TemporaryDirectory(prefix="sclip-")
        out, stem = Path(folder.name), Path(visit.name).stem or "picture"
        written = shown.export(out / "files", format, name=stem)
        visit.files = folder  # the last one's folder goes with its object
        if len(written) == 1:
            return written[0]
        whole = out / f"{stem}-{format}.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in written:
                archive.write(path, path.relative_to(out / "files"))
        return whole


def outlined(picture: PIL.Image.Image, region: np.ndarray | None) -> PIL.Image.Image:
    """A picture with a white line along the inside of a region of it."""
    if region is None:
        return picture
    width = max(1, round(max(picture.size) / 250))
    inner = needs("skimage.morphology", "export").isotropic_erosion(np.pad(region, 1), width)[1:-1, 1:-1]
    return PIL.Image.composite(
        PIL.Image.new("RGB", picture.size, "white"), picture, PIL.Image.fromarray(region & ~inner)
    )


def fitted(picture: PIL.Image.Image) -> tuple[PIL.Image.Image, float]:
    """A picture of a size to be looked at, and by what it was enlarged."""
    side = max(picture.size)
    scale = min(max(1, -(-SMALLEST // side)), LARGEST / side)
    if scale == 1:
        return picture, 1.0
    width, height = (max(1, round(length * scale)) for length in picture.size)
    how = PIL.Image.Resampling.NEAREST if scale > 1 else PIL.Image.Resampling.BOX
    return picture.resize((width, height), how), scale
