"""What one visitor teaches the page: regions of pictures with a word, and the labels that were learnt from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from sclip_plugin.errors import LabelError, PictureError
from sclip_plugin.memory.examples import IGNORED, Cells
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.segment.tuning import tuned_by
from sclip_plugin.settings import Settings
from sclip_plugin.text.labels import parse_labels
from sclip_plugin.text.tuned import Tuned


@dataclass
class Lesson:
    """One picture's examples.

    Fields:
        picture: RGB.
        label_map: (H, W) int16, places of the words; `IGNORED` where nothing was said.
    """

    picture: PIL.Image.Image
    label_map: np.ndarray


@dataclass
class Lessons:
    """All examples of a visitor.

    Fields:
        words: what was taught, in order.
        of_pictures: by the picture's hash.
        regions: of each word how many.
        learnt: whether questions use the examples.
        tuned: what was learnt last.
    """

    words: list[str] = field(default_factory=list)
    of_pictures: dict[str, Lesson] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    learnt: bool = False
    tuned: Tuned | None = None
    _known: dict[Any, Tuned] = field(default_factory=dict, repr=False)

    def add(self, picture: PIL.Image.Image, region: np.ndarray, word: str, most: int) -> None:
        """One more example.

        Args:
            picture: RGB.
            region: (H, W) of bool, of the picture's size.
            word: what it is.
            most: pictures that may have examples.

        Raises:
            PictureError: the region is empty, or too many pictures have examples.
        """
        if not region.any():
            raise PictureError("nothing is painted: draw over a few regions of one thing first.")
        key = key_of(picture)
        if key not in self.of_pictures:
            if len(self.of_pictures) >= most:
                raise PictureError(f"{most} pictures have examples; expected at most so many. Forget them first.")
            empty = np.full((picture.height, picture.width), IGNORED, np.int16)
            self.of_pictures[key] = Lesson(picture, empty)
        if word not in self.words:
            self.words.append(word)
        self.of_pictures[key].label_map[region] = self.words.index(word)
        self.regions[word] = self.regions.get(word, 0) + 1
        self._known.clear()

    def classes(self, asked: list[list[str]]) -> list[list[str]]:
        """The classes that were asked for, and the taught words that none of them has."""
        known = {name for names in asked for name in names}
        return [*asked, *([word] for word in self.words if word not in known)]

    def learn(self, segmenter: Segmenter, settings: Settings, asked: list[list[str]], look: Any) -> Tuned:
        """The classes as they are learnt from the examples; what was learnt of the same classes is kept.

        Args:
            segmenter: asked by nobody else meanwhile.
            settings: of the question.
            asked: of each class its names.
            look: function from a picture to its `Encoded`.

        Raises:
            LabelError: there are no examples, or the settings have a background of their own.
        """
        if not self.words:
            raise LabelError("there are no examples: click a region or paint, and give it a word.")
        vocabulary = parse_labels(self.classes(asked))
        key = (settings.feature_identity(), settings.logit_scale, settings.templates, str(vocabulary.identity()))
        if key not in self._known:
            names = list(zip(vocabulary.names, vocabulary.class_of_name, strict=True))
            places = np.array([next(place for name, place in names if name == word) for word in self.words], np.int16)
            cells = [
                self._cells(picture_key, lesson, places, look(lesson.picture), len(vocabulary.labels))
                for picture_key, lesson in self.of_pictures.items()
            ]
            while len(self._known) >= 4:
                self._known.pop(next(iter(self._known)))
            self._known[key] = tuned_by(segmenter.chain, settings, vocabulary, Cells.together(cells))
        self.tuned = self._known[key]
        return self.tuned

    def _cells(self, key: str, lesson: Lesson, places: np.ndarray, encoded: Encoded, classes: int) -> Cells:
        said = lesson.label_map
        return Cells.of(key, encoded.features(), np.where(said < 0, said, places[said.clip(0)]), classes)

    def forget(self) -> None:
        """Be as before the first example."""
        for name, value in vars(Lessons()).items():
            setattr(self, name, value)

    def version(self) -> tuple[Any, ...]:
        """Changes with the examples, while they are used."""
        return (tuple(self.regions.items()), len(self.of_pictures)) if self.learnt else ()


def key_of(picture: PIL.Image.Image) -> str:
    return f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
