"""Which pictures of a store answer a question best: codes say whom to look at, stored vectors how good they are."""

from __future__ import annotations

import fnmatch
import glob
import re
from dataclasses import dataclass

import numpy as np

from .nearest import Codes
from .regions import cosines
from .store import IndexStore

EXACT_UP_TO = 250_000
"""Regions that are all looked at; of more, codes say which."""
CANDIDATES = 4096
"""Regions that codes name for a word, at first."""
PICTURES_WHOLE = 1024
"""Pictures named for a word of which all regions are looked at, where there is more than one word."""
WITHOUT = 0.5
"""The share of its score that a word which shall be absent takes away."""


@dataclass(frozen=True, eq=False)
class Question:
    """Words to be there, and words not to be.

    Attributes:
        words: to be there.
        vectors: (K, D) float32, of all names, synonyms too.
        class_of_name: (K,) of each name its word; those from ``len(words)`` on shall not be there.
        constants: (K,) of each name, what is added to its cosines; None: nothing.
        given: the words that have names given as vectors.
    """

    words: tuple[str, ...]
    vectors: np.ndarray
    class_of_name: np.ndarray
    constants: np.ndarray | None = None
    given: frozenset[int] = frozenset()

    @property
    def wanted(self) -> np.ndarray:
        """The names of the words to be there."""
        return np.flatnonzero(self.class_of_name < len(self.words))

    def of_words(self, of_names: np.ndarray) -> np.ndarray:
        """(n, K) to (n, words): of synonyms the best."""
        out = np.full((len(of_names), int(self.class_of_name.max()) + 1), -np.inf, np.float32)
        of_names = of_names if self.constants is None else of_names + self.constants
        for name, word in enumerate(self.class_of_name):
            out[:, word] = np.maximum(out[:, word], of_names[:, name])
        return out

    def ranked_by(self, of_words: np.ndarray) -> np.ndarray:
        """(n, words) to (n,): the lowest score of the words to be there, less half the highest of the others."""
        count = len(self.words)
        scores = of_words[:, :count].min(axis=1)
        if of_words.shape[1] > count:
            scores = scores - WITHOUT * of_words[:, count:].max(axis=1)
        return scores


@dataclass(frozen=True, eq=False)
class Found:
    """A picture that answers, by the row of its content.

    Attributes:
        path: of a file with that content.
        row: of the content.
        score: of the picture.
        of_words: (words,) its scores.
    """

    path: str
    row: int
    score: float
    of_words: np.ndarray


class Searcher:
    """What is kept in memory of a store to search it.

    Args:
        store: it may grow; see `refresh`.

    Attributes:
        paths: of all files that can be found.
        content: (files,) the row of each one's content, rising.
        rows: those rows, each once.
    """

    def __init__(self, store: IndexStore) -> None:
        self.store = store
        self.paths: list[str] = []
        self.content = self.rows = np.empty(0, np.int64)
        self._codes: Codes | None = None
        self._images: tuple[np.ndarray, np.ndarray] | None = None
        self._seen: tuple[int, int] | None = None
        self.refresh()

    def refresh(self) -> None:
        """See what has been added to the store since."""
        self.store.refresh()
        seen = self.store.forgotten, len(self.store)
        if self._seen == seen:
            return
        if self._seen is not None and self._seen[0] != seen[0]:
            self._codes = None
        self._seen = seen
        files = []
        for path, number in self.store.files.items():
            row = self.store.rows[number]
            content = None if row.error is not None else self.store.contents.get(row.sha256 or b"")
            if content is not None:
                files.append((content, path))
        files.sort()
        self.paths, self.content = [path for _, path in files], np.array([row for row, _ in files], np.int64)
        self.rows = np.unique(self.content)
        self._images = None
        if self._codes is not None:
            self._codes.refresh()

    def search(self, question: Question, top: int, under: str | None, by_picture: bool) -> list[Found]:
        """The best, in order."""
        files = np.arange(len(self.paths)) if under is None else _under(self.paths, under)
        rows = self.rows if under is None else np.unique(self.content[files])
        if not len(rows):
            return []
        if by_picture:
            if self._images is None:
                self._images = self.store.images(self.rows)
            of_names = cosines(*self._images, question.vectors)[np.searchsorted(self.rows, rows)]
        else:
            rows = self._candidates(question, rows, top)
            own, begins = self._regions_of(rows)
            of_names = np.maximum.reduceat(cosines(*self.store.region_vectors(own), question.vectors), begins)
        of_words = question.of_words(of_names)
        scores = question.ranked_by(of_words)
        found: list[Found] = []
        content = self.content[files]
        for place in np.argsort(-scores, kind="stable")[:top]:
            low, high = np.searchsorted(content, [rows[place], rows[place] + 1])
            for file in files[low:high]:
                found.append(Found(self.paths[file], int(rows[place]), float(scores[place]), of_words[place]))
        return found[:top]

    def regions(self, row: int, question: Question) -> np.ndarray:
        """(R, words): what each region of a row says of each word."""
        own, _ = self._regions_of(np.array([row]))
        return question.of_words(cosines(*self.store.region_vectors(own), question.vectors))

    def vectors(self, row: int) -> np.ndarray:
        """(R, D) float32, unit: the regions of a row."""
        values, scales = self.store.region_vectors(self._regions_of(np.array([row]))[0])
        return values.astype(np.float32) * scales[:, None]

    def _regions_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the regions of rows, and where each row's begin among them."""
        starts = self.store.starts()
        lengths = starts[rows + 1] - starts[rows]
        begins = np.concatenate([[0], lengths.cumsum()[:-1]])
        return np.repeat(starts[rows] - begins, lengths) + np.arange(lengths.sum()), begins

    def _candidates(self, question: Question, rows: np.ndarray, top: int) -> np.ndarray:
        """Of some rows those that may be among the best, by rising numbers."""
        starts = self.store.starts()
        if (starts[rows + 1] - starts[rows]).sum() <= EXACT_UP_TO:
            return rows
        if self._codes is None:
            self._codes = Codes(self.store)
        allowed = np.zeros(len(starts), bool)
        allowed[rows] = True
        alone = len(question.class_of_name) == 1
        wanted = min(len(rows), top if alone else max(top, PICTURES_WHOLE))
        named: list[np.ndarray] = []
        for name in question.wanted:
            vector, count, best = question.vectors[[name]], CANDIDATES, np.empty(0, np.int64)
            while len(best) < wanted and count // 4 < starts[-1]:
                numbers = np.sort(self._codes.nearest(vector, count))
                of_row = np.searchsorted(starts, numbers, side="right") - 1
                numbers, of_row = numbers[allowed[of_row]], of_row[allowed[of_row]]
                if len(numbers):
                    scores = cosines(*self.store.region_vectors(numbers), vector)[:, 0]
                    ordered = of_row[np.argsort(-scores, kind="stable")]
                    best = ordered[np.sort(np.unique(ordered, return_index=True)[1])]
                if not alone and len(best) >= top:
                    break
                count *= 4
            named.append(best[:wanted])
        return np.unique(np.concatenate(named))


def _under(paths: list[str], under: str) -> np.ndarray:
    """Which files lie below a folder, or have a path that a pattern matches."""
    if glob.has_magic(under):
        match = re.compile(fnmatch.translate(under)).match
        return np.flatnonzero([match(path) is not None for path in paths])
    folder = under.strip("/") + "/"
    return np.flatnonzero([path.startswith(folder) for path in paths])
