"""Annotated pictures to tuned labels: which class each annotation has, and what was learnt from."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError, LabelError, PictureError
from ..imaging.pictures import read_picture
from ..memory.examples import UNLABELLED
from ..text.labels import BACKGROUND, Labels, Vocabulary, parse_labels
from ..text.tuned import Tuned
from .base import Annotated, Examples

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


@dataclass(frozen=True)
class Learnt:
    """What examples gave.

    Fields:
        tuned: the labels.
        pictures: how many were read.
        pixels: of each label, in all pictures.
        problems: what was left out, in sentences.
    """

    tuned: Tuned
    pictures: int
    pixels: dict[str, int]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        report = self.tuned.report
        shown = [f"{label} {count:,}" for label, count in self.pixels.items() if count]
        lines = [f"{self.pictures} pictures; pixels: {', '.join(shown) or 'none'}"]
        without = [label for label, count in report["pictures"].items() if not count]
        if without:
            lines.append(f"without examples, which keep their words: {', '.join(without)}")
        if report["threshold"] is not None:
            lines.append(f"background: below a cosine of {report['threshold']:.3f}")
        if report["left_out"] is None:
            lines.append("not checked: three pictures are needed to leave some out")
            return "\n".join(lines)
        words, tuned = report["left_out"]["words"], report["left_out"]["tuned"]
        lines.append(f"mIoU of left-out pictures: {words:.1f} with words, {tuned:.1f} tuned")
        if isinstance(report["chosen"], str):
            kept = "words" if report["chosen"] == "words" else "words and a threshold for the background"
            lines.append(f"left-out pictures do not gain, so the labels are the {kept}; more examples may help")
        elif tuned <= words:
            loss = report["loss"]
            lines.append(
                "the labels are the tuned ones all the same: the cross-entropy of these pictures, which is less noisy, "
                f"falls from {loss['words']:.3f} to {loss['tuned']:.3f}"
            )
        return "\n".join(lines)


def learn(
    segmenter: Segmenter,
    examples: Examples,
    labels: Labels | None = None,
    *,
    add: Tuned | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Learnt:
    """Tune labels by annotated pictures.

    Args:
        segmenter: with the settings that the labels will be used with.
        examples: of `read_examples`.
        labels: as for a segmenter's call; None: those of ``add``, or the annotations' categories. A category belongs to
            the class that has its name, in upper or lower case. With a label ``"background"`` other categories, and
            pixels without any, are background.
        add: as for `Segmenter.tune`.
        progress: called with (pictures done, pictures in all).

    Raises:
        LabelError: annotated categories that no label names, or none that one names.
        FileFormatError: no picture could be read.

    Example:
        >>> import sclip_plugin as sp
        >>> from sclip_plugin.examples.learning import learn
        >>> from sclip_plugin.examples.reading import read_examples
        >>> learn(seg, read_examples("annotations.json"), "cat, sofa").tuned.save("m.safetensors")  # doctest: +SKIP
    """
    if labels is None:
        labels = examples.categories if add is None else Vocabulary(add.labels, add.names, add.class_of_name)
    vocabulary = parse_labels(labels, segmenter.settings.background)
    table = classes_of(examples.categories, vocabulary)
    problems, maps, pixels = list(examples.problems), [], Counter[str]()
    unnamed: Counter[str] = Counter()
    for item in examples.items:
        try:
            label_map = item.label_map(examples.categories)
            read_picture(source_of(item))
        except (FileFormatError, PictureError, OSError) as error:
            problems.append(f"left out: {error}")
            continue
        if item.may_be_turned():
            problems.append(f"{item.name} is turned by EXIF; its annotation was taken as drawn on the upright picture")
        there, count = np.unique(label_map[label_map >= 0], return_counts=True)
        unnamed.update({examples.categories[i]: int(n) for i, n in zip(there, count, strict=True) if table[i] is None})
        maps.append((item, _renumbered(label_map, table, vocabulary)))
        for index, name in enumerate(vocabulary.labels):
            pixels[name] += int((maps[-1][1] == index).sum())
    if unnamed:
        raise LabelError(
            f"annotated categories that no label names: {', '.join(unnamed)}. Add them to the labels, or add the label "
            f"'{BACKGROUND}', to which all others belong. Labels: {', '.join(vocabulary.labels)}."
        )
    if not maps:
        raise FileFormatError(f"no example can be used: {'; '.join(problems) or 'there are none'}.")

    def read() -> Iterator[Any]:
        for done, (item, _) in enumerate(maps, start=1):
            picture = read_picture(source_of(item))
            picture.filename = item.name if isinstance(item.picture, bytes) else str(item.picture)  # type: ignore[attr-defined]
            yield picture
            if progress is not None:
                progress(done, len(maps))

    tuned = segmenter.tune(read(), (label_map for _, label_map in maps), vocabulary, add=add)
    return Learnt(tuned, len(maps), {name: pixels[name] for name in vocabulary.labels}, tuple(problems))


def source_of(item: Annotated) -> Any:
    """What `read_picture` takes of an example."""
    return io.BytesIO(item.picture) if isinstance(item.picture, bytes) else item.picture


def classes_of(categories: list[str], vocabulary: Vocabulary) -> list[int | None]:
    """The class of each category; None if there is none."""
    classes = {name.casefold(): index for name, index in zip(vocabulary.names, vocabulary.class_of_name, strict=True)}
    classes |= {label.casefold(): index for index, label in enumerate(vocabulary.labels)}
    other = vocabulary.labels.index(BACKGROUND) if BACKGROUND in vocabulary.labels else None
    found = [classes.get(category.casefold(), other) for category in categories]
    if categories and not {category.casefold() for category in categories} & classes.keys():
        raise LabelError(
            f"none of the annotated categories ({', '.join(categories)}) is one of the labels "
            f"({', '.join(vocabulary.labels)})."
        )
    return found


def _renumbered(label_map: np.ndarray, table: list[int | None], vocabulary: Vocabulary) -> np.ndarray:
    """A label map of categories as one of classes; what nobody labelled is background where that is a class."""
    other = vocabulary.labels.index(BACKGROUND) if BACKGROUND in vocabulary.labels else UNLABELLED
    classes = np.array([other if index is None else index for index in table] or [other], np.int16)
    known = np.where(label_map >= 0, classes[label_map.clip(0)], label_map)
    return np.where(label_map == UNLABELLED, other, known).astype(np.int16)
