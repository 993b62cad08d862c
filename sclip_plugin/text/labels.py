"""Words as people write them: labels and their synonyms, and prompt templates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import LabelError, UnknownNameError
from ..storage.reading import brief

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Vector: TypeAlias = Tensor | np.ndarray
    Entry: TypeAlias = str | Vector | Sequence[str | Vector]
    Labels: TypeAlias = Sequence[str | Sequence[str | Vector]] | Mapping[str, Entry] | str | "Vocabulary"
else:
    Labels = Any

BACKGROUND = "background"
WANTED = "expected a list of names such as ['cat', 'dog'], where a list inside names synonyms of one class"


@cache
def data_lines(name: str) -> tuple[str, ...]:
    """The lines of a file that ships with this room."""
    text = package_files("sclip_plugin.text").joinpath(f"data/{name}").read_text(encoding="utf-8")
    return tuple(text.split("\n")[:-1])


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's ImageNet evaluation, with ``{}`` for the name."""
    return data_lines("imagenet_templates.txt")


def background_names() -> tuple[str, ...]:
    """The stuff words that stand for background in SCLIP's VOC vocabulary."""
    return data_lines("background.txt")


def parse_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """``"imagenet"`` (the 80), ``"scene"`` (five more), ``"tips"`` (nine), ``"plain"`` (one), or your own, with ``{}``.

    ``"scene"`` is what CLIP Surgery embeds words with, "there is a {} in the scene." and its like among them.
    ``"tips"`` is what TIPS and TIPSv2 are evaluated with.

    Raises:
        UnknownNameError: a template without exactly one ``{}``.

    Example:
        >>> from sclip_plugin.text.labels import parse_templates
        >>> parse_templates("plain"), len(parse_templates("imagenet"))
        (('a photo of a {}.',), 80)
    """
    if templates == "imagenet":
        return imagenet_templates()
    if templates == "scene":
        return imagenet_templates() + data_lines("scene_templates.txt")
    if templates == "tips":
        return data_lines("tips_templates.txt")
    if templates == "plain":
        return ("a photo of a {}.",)
    given = tuple(templates) if isinstance(templates, (list, tuple)) else (templates,)
    for template in given or ("",):
        if not isinstance(template, str) or template.count("{}") != 1 or not _is_text(template):
            raise UnknownNameError(
                f"{template!r:.200} is not a prompt template: expected 'imagenet', 'scene', 'tips', 'plain', or texts "
                "with one {} for the name, such as 'a photo of a {}.'."
            )
    return tuple(dict.fromkeys(given))


def _is_text(name: str) -> bool:
    """Whether it can be written in UTF-8: half of a surrogate pair stands for a byte that is no text."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


@dataclass(frozen=True)
class Vocabulary:
    """Classes and the names that stand for them.

    Attributes:
        labels: one name a class, for people.
        names: all distinct names, each embedded once.
        class_of_name: (len(names),) class index of each name.
        vectors: the names that are given as vectors instead of words: their index, and a vector (D,) float32.
        constants: (len(labels),) what is added to the cosines of each class's names; empty: nothing.
        ignored: so many classes at the end compete with the others and are left out of results.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    class_of_name: tuple[int, ...]
    vectors: tuple[tuple[int, Any], ...] = field(default=(), compare=False, repr=False)
    constants: tuple[float, ...] = field(default=(), repr=False)
    ignored: int = field(default=0, repr=False)

    def identity(self) -> list[Any]:
        """All that the classes are made of, as values that JSON holds."""
        vectors = [[index, hashlib.sha256(vector.tobytes()).hexdigest()] for index, vector in self.vectors]
        return [self.labels, self.names, self.class_of_name, vectors, *([self.constants] if self.constants else [])]

    def constants_of_names(self) -> list[float]:
        """The constant of each name's class."""
        return [self.constants[index] for index in self.class_of_name] if self.constants else [0.0] * len(self.names)

    def beside(self, ignored: Sequence[str]) -> Vocabulary:
        """The same with classes at the end that compete and are left out of results.

        Raises:
            LabelError: one of them is a label, or the labels were tuned.
        """
        if not ignored:
            return self
        if type(self) is not Vocabulary:
            raise LabelError("ignore goes with words, not with labels that were tuned; tune with the word as a label.")
        if twice := [word for word in ignored if word in self.labels]:
            raise LabelError(f"{twice[0]!r} is among the labels and in ignore; expected it in one of them.")
        count = len(self.labels)
        return replace(
            self,
            labels=self.labels + tuple(ignored),
            names=self.names + tuple(ignored),
            class_of_name=self.class_of_name + tuple(range(count, count + len(ignored))),
            ignored=len(ignored),
        )

    def check(self, chain: Any, settings: Any) -> None:
        """Refuse a model and settings that the classes were not made for; words are for any. See `Tuned`."""


def parse_ignored(words: Any) -> tuple[str, ...]:
    """Words to ignore: a text with commas, or a list.

    Raises:
        LabelError: one is empty, or no text.

    Example:
        >>> from sclip_plugin.text.labels import parse_ignored
        >>> parse_ignored("ball, cup")
        ('ball', 'cup')
    """
    if words is None or (isinstance(words, (list, tuple, str)) and not words):
        return ()
    vocabulary = parse_labels(words)
    if vocabulary.labels != vocabulary.names:
        raise LabelError(f"ignore={brief(words)}; expected words such as 'ball, cup', without synonyms or vectors.")
    return vocabulary.labels


def parse_labels(labels: Labels, background: bool = False) -> Vocabulary:
    """Labels as people write them to classes and names.

    Args:
        labels: a list of names, in which a list stands for one class with its synonyms (the first is shown); a dict of
            label to synonyms; or a string with names between commas. Among the synonyms of a class, or in place of
            them, may be vectors: tensors or arrays, (D,) or (n, D), in the space that the model shares with text.
            They become unit vectors. A `Vocabulary`, such as a `Tuned`, is returned as it is.
        background: add SCLIP's background vocabulary as one more class, named ``"background"``, at the end.

    Raises:
        LabelError: no labels, an empty or non-text name, a label given twice, or a vector that is none.

    Example:
        >>> from sclip_plugin.text.labels import parse_labels
        >>> parse_labels(["cat", ["sofa", "couch"]])
        Vocabulary(labels=('cat', 'sofa'), names=('cat', 'sofa', 'couch'), class_of_name=(0, 1, 1))
    """
    if isinstance(labels, Vocabulary):
        if background:
            raise LabelError("labels that were tuned have their own background; leave the setting background out.")
        return labels
    classes = _classes(labels)
    if any(isinstance(label, str) and label.strip().startswith("@auto") for label, _ in classes):
        raise LabelError(
            "'@auto' finds words for one picture at a time, so it is for calls that segment, label or name pictures, "
            "and stands in front: '@auto, cat'. Here, expected names; 'sclip names' or Segmenter.names finds some."
        )
    if background:
        classes.append((BACKGROUND, list(background_names())))
    if not classes:
        raise LabelError(f"labels is empty; {WANTED}.")
    shown: list[str] = []
    names: list[str] = []
    class_of_name: list[int] = []
    given: list[tuple[int, Any]] = []
    for index, (label, entries) in enumerate(classes):
        words = [entry for entry in entries if not hasattr(entry, "shape")]
        for name in [label, *words]:
            if not isinstance(name, str) or not name.strip():
                raise LabelError(f"label {index} is {_brief(name)}; {WANTED}, none of them empty.")
            if not _is_text(name):
                raise LabelError(f"label {index} is {name!r}, which is no text in UTF-8; write it in UTF-8.")
        label = label.strip()
        if label in shown:
            raise LabelError(f"label {label!r} is given twice; name each class once (synonyms go into one list).")
        shown.append(label)
        rows = [row for entry in entries if hasattr(entry, "shape") for row in _unit_vectors(label, entry)]
        # Two classes may share a synonym; within a class a name counts once.
        distinct = list(dict.fromkeys(name.strip() for name in words)) or ([] if rows else [label])
        given += [(len(names) + len(distinct) + i, row) for i, row in enumerate(rows)]
        distinct += [f"{label} [{i}]" for i in range(len(rows))]
        names += distinct
        class_of_name += [index] * len(distinct)
    return Vocabulary(tuple(shown), tuple(names), tuple(class_of_name), tuple(given))


def _classes(labels: Any) -> list[tuple[Any, list[Any]]]:
    """Label and names or vectors of each class, in any of the forms of `parse_labels`."""
    if isinstance(labels, str):
        labels = labels.split(",")
    if isinstance(labels, Mapping):
        classes = [(label, value if isinstance(value, (list, tuple)) else [value]) for label, value in labels.items()]
        for label, entries in classes:
            if not all(isinstance(entry, str) or hasattr(entry, "shape") for entry in entries):
                raise LabelError(f"label {label!r} is {_brief(labels[label])}; {WANTED}.")
        return [(label, list(entries)) for label, entries in classes]
    if not isinstance(labels, Sequence):
        raise LabelError(f"labels is a {type(labels).__name__}; {WANTED}.")
    groups = [[entry] if isinstance(entry, str) else entry for entry in labels]
    for group in groups:
        if not isinstance(group, Sequence):
            raise LabelError(f"labels holds {_brief(group)}; {WANTED}.")
    return [(group[0] if group else "", list(group)) for group in groups]


def _brief(value: Any) -> str:
    return f"a vector of shape {tuple(value.shape)}" if hasattr(value, "shape") else brief(value)


def _unit_vectors(label: str, value: Any) -> Any:
    """A class's vector or vectors as an array (n, D) float32 of unit length."""
    import numpy as np

    value = value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)
    if value.ndim not in (1, 2) or not value.size or value.dtype.kind not in "fiu":
        raise LabelError(f"label {label!r} has a vector of shape {value.shape}; expected numbers, (D,) or (n, D).")
    rows = np.atleast_2d(value).astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or not (length > 0).all():
        raise LabelError(f"label {label!r} has a vector with NaN or infinite values, or of length 0.")
    return rows / length
