"""ITACLIP's auxiliary texts (arXiv 2411.12044): a second vocabulary, of definitions or synonyms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ..errors import FileFormatError, SettingError
from ..fields import field_of
from ..storage.reading import load_json, read_text
from .base import PatchScores, Place, Step
from .registry import register_step


@register_step("auxiliary")
@dataclass(frozen=True, kw_only=True)
class Auxiliary(Step):
    """Cosines with (1 - α) t + α t_aux, not normalised afterwards; classes without a second text keep t.

    Fields:
        texts: JSON file from classes to a definition or synonym, ``{"cat": "a small domesticated animal"}``. The same
            templates are used.
        alpha: α, weight of the second text.
    """

    on: ClassVar[Place] = "patches"
    summary: ClassVar[str] = "mix a second text of each class, a definition or a synonym, into its names"
    source: ClassVar[str] = "ITACLIP, arXiv 2411.12044"
    texts: str = field_of("", "JSON file that maps classes to definitions or synonyms", holds="path")
    alpha: float = field_of(0.05, "weight of the second text", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.texts:
            raise SettingError(
                'auxiliary got no texts; expected texts=FILE, a JSON file such as {"cat": "a small pet"}.'
            )

    def __call__(self, given: PatchScores) -> Tensor:
        texts = load_texts(self.texts)
        words = given.words
        known = [label for label in words.labels if label in texts]
        scores = given.scores.clone()
        if known:
            second = given.features @ words.embed([texts[label] for label in known]).to(given.features).T
            for index, c in enumerate(words.class_of_name):
                if words.labels[c] in texts:
                    of_class = second[..., known.index(words.labels[c])]
                    scores[..., index] = (1 - self.alpha) * scores[..., index] + self.alpha * of_class
        return scores


def load_texts(path: str | Path) -> dict[str, str]:
    """Classes to texts, of a JSON file.

    Raises:
        FileNotFoundError, TextFileError, FileFormatError: no such file, no JSON, or another content.
    """
    held = load_json(read_text(Path(path).expanduser()), path)
    if not isinstance(held, dict) or not all(isinstance(text, str) and text.strip() for text in held.values()):
        raise FileFormatError(f"{path} does not map classes to texts; expected {{'cat': 'a small animal'}}.")
    return held
