"""Lists of words that a picture may be named with: the shipped one, and one's own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LabelError
from .files import read_labels
from .labels import Vocabulary, data_lines, parse_labels

AUTO = "@auto"
MOST = 250_000
"""Words that a list may hold."""


@dataclass(frozen=True)
class WordList:
    """Distinct words; the first ``preferred`` of them are said rather than others of the same meaning.

    Example:
        >>> from sclip_plugin.text.wordlist import WordList
        >>> WordList.of(["cat", "Cat", " dog "]).words
        ('cat', 'dog')
    """

    words: tuple[str, ...] = field(repr=False)
    preferred: int = 0

    @classmethod
    def of(cls, words: Iterable[str], preferred: Iterable[str] = ()) -> WordList:
        """Words as they come: blanks around them, empty ones, and doubles in any case are left out.

        Raises:
            LabelError: no words, or more than 250,000.
        """
        distinct: dict[str, str] = {}
        first = 0
        for index, part in enumerate((preferred, words)):
            for word in part:
                word = " ".join(word.split())
                if word:
                    distinct.setdefault(word.casefold(), word)
            first = len(distinct) if index == 0 else first
        if not 0 < len(distinct) <= MOST:
            raise LabelError(f"a list of {len(distinct):,} words was given to name with; expected 1 to {MOST:,}.")
        return cls(tuple(distinct.values()), first)

    def identity(self) -> str:
        """A hash of the words."""
        return hashlib.sha256("\n".join((str(self.preferred), *self.words)).encode()).hexdigest()


@functools.cache
def shipped() -> WordList:
    """The list of this package: names of LVIS and COCO-Stuff, which are preferred, then visible nouns of WordNet."""
    return WordList.of(data_lines("words_wordnet.txt"), preferred=data_lines("words_lvis_coco.txt"))


@functools.lru_cache(maxsize=4)
def _read(path: str, changed: int) -> WordList:
    classes = read_labels(path)
    if isinstance(classes, Vocabulary):
        raise LabelError(f"{path} holds labels that were tuned, and no words to name with; expected a list of words.")
    rows = classes if isinstance(classes, list) else [[label, *names] for label, names in classes.items()]
    return WordList.of(name for names in rows for name in names)


@dataclass(frozen=True)
class Auto:
    """Labels that are named for each picture, from a list, beside labels that are always offered.

    Attributes:
        file: the list's file; None: the shipped list.
        offered: labels, in a form that `parse_labels` takes, which may be empty.
    """

    file: str | None
    offered: Any = ()

    def words(self) -> WordList:
        """The list.

        Raises:
            LabelError: there is no such file, or it can't be read as a list of words.
        """
        if self.file is None:
            return shipped()
        path = Path(self.file)
        return _read(self.file, path.stat().st_mtime_ns if path.is_file() else 0)

    def vocabulary(self, found: Iterable[str], background: bool) -> Vocabulary | None:
        """The offered classes and the found words; None where there are none."""
        classes = dict(self.offered) if isinstance(self.offered, dict) else list(self.offered)
        for word in found:
            if isinstance(classes, dict):
                classes[word] = [word]
            else:
                classes.append([word])
        return parse_labels(classes, background) if classes or background else None


def as_auto(labels: Any) -> Auto | None:
    """What ``"@auto"``, ``"@auto:FILE"``, ``"@auto, cat, sofa|couch"``, ``["@auto", "cat"]`` mean; None: plain labels.

    Example:
        >>> from sclip_plugin.text.wordlist import as_auto
        >>> as_auto("@auto, cat, sofa|couch").offered
        [['cat'], ['sofa', 'couch']]
        >>> as_auto("auto")
    """
    if isinstance(labels, str):
        first, _, rest = labels.partition(",")
        offered: Any = [names for part in rest.split(",") if (names := [n for n in part.split("|") if n.strip()])]
        offered = [[name.strip() for name in names] for names in offered]
    elif isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], str):
        first, offered = labels[0], list(labels[1:])
    else:
        return labels if isinstance(labels, Auto) else None
    name, colon, file = first.strip().partition(":")
    if name != AUTO:
        return None
    if colon and not file.strip():
        raise LabelError(f"{first.strip()!r} names no file; expected '@auto:FILE', or '@auto' for the shipped list.")
    return Auto(file.strip() or None, offered)


def auto_of(labels: Any) -> Auto:
    """`as_auto` where nothing else will do.

    Raises:
        LabelError: plain labels.
    """
    auto = as_auto(labels)
    if auto is None:
        raise LabelError(f"names got labels={labels!r:.100}; expected '@auto', '@auto:FILE', or '@auto, cat, dog'.")
    return auto
