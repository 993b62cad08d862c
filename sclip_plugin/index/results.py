"""What a search finds: a picture, how well it answers, and where in it the words are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import LabelError
from ..importing import needs
from ..steps.presence import Presence

PLACE = 0.75
"""A word's place is where its heat is above three quarters of the way from the picture's lowest to its highest."""
STEPS = 8  # cells that boxes are found on, a patch


@dataclass(frozen=True, eq=False)
class Hit:
    """A picture that was found.

    Attributes:
        path: below the collection's folder, with ``/``.
        file: where it lies.
        score: what hits are ranked by.
        scores: of each word, the cosine of the region that is most like it.
        size: (height, width) of the picture, upright as its EXIF orientation says.
        presence: of each word how surely it is in the picture, 0 to 1, 0.5 the threshold; None in a collection of
            fewer than five pictures. Vectors have none.
        null: what it was read by: learned from the collection's pictures, or the film's frames.
    """

    path: str
    file: Path
    score: float
    scores: dict[str, float]
    size: tuple[int, int]
    grid: np.ndarray = dataclasses.field(repr=False)
    cosines: np.ndarray = dataclasses.field(repr=False)
    presence: dict[str, float] | None = None
    null: Presence | None = dataclasses.field(default=None, repr=False)

    @property
    def is_there(self) -> bool:
        """Whether all words are in the picture, as far as `presence` knows."""
        return all(number >= 0.5 for number in (self.presence or {}).values())

    def heat(self, word: str | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """How alike a word and each place of the picture are.

        Args:
            word: one of `scores`; the first where None.
            size: (height, width) of the answer; the picture's where None.

        Returns:
            Cosines, (H, W) float32.

        Raises:
            LabelError: a word that was not asked for.
        """
        words = list(self.scores)
        if word is not None and word not in words:
            raise LabelError(f"{word!r} was not searched for; expected one of {', '.join(map(repr, words))}.")
        cells = self.cosines[:, 0 if word is None else words.index(word)][self.grid]
        cells = torch.from_numpy(np.ascontiguousarray(cells, np.float32))[None, None]
        return F.interpolate(cells, size or self.size, mode="bilinear", align_corners=False)[0, 0].numpy()

    def mask(self, word: str | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Where the word is, (H, W) of bool: where its heat is above three quarters of the picture's range.

        Arguments as for `heat`.
        """
        heat = self.heat(word, size)
        cells = self.cosines[:, 0 if word is None else list(self.scores).index(word)]
        low, high = float(cells.min()), float(cells.max())
        return heat >= low + PLACE * (high - low)

    @cached_property
    def boxes(self) -> dict[str, tuple[int, int, int, int]]:
        """Of each word the box of the largest connected part of its place: left, top, right, bottom in pixels.

        Right and bottom are the first column and row outside.
        """
        return {word: self._box(word) for word in self.scores}

    @property
    def box(self) -> tuple[int, int, int, int]:
        """That of the first word."""
        return self._box(next(iter(self.scores)))

    def _box(self, word: str) -> tuple[int, int, int, int]:
        ndimage = needs("scipy.ndimage", "index")
        cells = (self.grid.shape[0] * STEPS, self.grid.shape[1] * STEPS)
        parts, _ = ndimage.label(self.mask(word, cells))
        largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
        rows, columns = ndimage.find_objects(parts, largest)[-1]
        down, across = self.size[0] / cells[0], self.size[1] / cells[1]
        left, top = int(columns.start * across), int(rows.start * down)
        right, bottom = int(np.ceil(columns.stop * across)), int(np.ceil(rows.stop * down))
        return left, top, min(right, self.size[1]), min(bottom, self.size[0])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "path": self.path,
            "file": str(self.file),
            "score": self.score,
            "size": list(self.size),
            "scores": self.scores,
            "presence": self.presence,
            "null": self.null and {"pictures": self.null.pictures, "identity": self.null.identity()},
            "boxes": {word: list(box) for word, box in self.boxes.items()},
        }
