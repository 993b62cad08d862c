"""`tune`: labels taught by a few annotated pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import LabelError, ShapeError
from ..imaging.pictures import Picture, read_picture
from ..memory.examples import Cells
from ..memory.store import picture_key
from ..settings import Settings
from ..text.labels import BACKGROUND, Labels, Vocabulary, parse_labels
from ..text.tuned import Tuned
from .anchored import WEIGHT, Rows, Start, best_threshold, chosen, fit, left_out, targets, words
from .chain import OfModel

LEAST_TO_LEAVE_OUT = 3


class Tunes(OfModel):
    """`tune`, for a segmenter.

    Attributes:
        taught: labels that were tuned; words that name one of them mean what was learnt. None: words are words.
    """

    taught: Tuned | None = None

    def as_taught(self, vocabulary: Vocabulary) -> Vocabulary:
        """Classes of words, with what `taught` knows of them."""
        return vocabulary if self.taught is None else taught_by(self.taught, vocabulary)

    def tune(
        self,
        pictures: Iterable[Picture],
        masks: Iterable[np.ndarray | Tensor],
        labels: Labels | None = None,
        settings: Settings | None = None,
        *,
        add: Tuned | None = None,
        **changes: Any,
    ) -> Tuned:
        """Learn labels from a few annotated pictures: a row and a constant for each class, held near its words.

        Segmenting by the result costs what words cost. Classes without examples keep their words. A label
        ``"background"`` stands for everything else: it is learnt as a threshold on the largest cosine of the others,
        and pixels without a label belong to it. From three pictures on, pictures are left out to compare; if these do
        not gain, the result has the words' rows.

        Args:
            pictures: as for a call.
            masks: for each picture a label map (H, W) of integers: the index into ``labels``; -1: no label, -2: not
                to be learnt from. It may have another size than the picture, with the same proportions.
            labels: as for a call, without vectors; None: those of ``add``.
            settings: as for a call; those that features depend on must be the same when the result is used.
            add: labels that were tuned before, with their examples, which are learnt from too.
            **changes: as for a call.

        Returns:
            A `Tuned`, for use as ``labels``; it can be saved.

        Raises:
            LabelError: no labels, vectors among them, or ``add`` of another model or without examples.
            ShapeError: a mask is no label map of these labels.
            SettingError: the method's features depend on the words.

        Source: `sclip_plugin.segment.anchored`.

        Example:
            >>> import numpy as np, sclip_plugin as sp
            >>> seg = sp.Segmenter.from_pretrained("demo")
            >>> scene = sp.draw_scene(seed=7)
            >>> tuned = seg.tune([scene.picture], [scene.label_map], list(scene.labels))
            >>> seg(scene.picture, tuned).labels == scene.labels
            True
        """
        how = self.chosen(settings, changes)  # type: ignore[attr-defined]
        vocabulary = _vocabulary(labels, add, how)
        parts = [] if add is None else [_examples_of(add, self.chain, how, vocabulary)]
        keys: deque[str] = deque()
        looks = self.encode(_noted(pictures, keys), how, dtype=torch.float32)  # type: ignore[attr-defined]
        for look, mask in zip_longest(looks, masks):
            if look is None or mask is None:
                raise ShapeError("pictures and masks differ in number; expected a mask for each picture.")
            label_map = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
            parts.append(Cells.of(keys.popleft(), look.features(), label_map, len(vocabulary.labels)))
        if not parts:
            raise LabelError("no examples were given; expected one picture with its mask at least.")
        return tuned_by(self.chain, how, vocabulary, Cells.together(parts))


def taught_by(known: Tuned, vocabulary: Vocabulary) -> Vocabulary:
    """Classes of words, with what tuned labels know of them; classes that hold vectors, or tuned ones, as they are."""
    if isinstance(vocabulary, Tuned) or vocabulary.vectors:
        return vocabulary
    classes: list[list[str]] = [[label] for label in vocabulary.labels]
    for name, index in zip(vocabulary.names, vocabulary.class_of_name, strict=True):
        classes[index].append(name)
    ordered = [next(([name] for name in names if name in known.labels), names[1:]) for names in classes]
    if not any(names[0] in known.labels for names in ordered):
        return vocabulary
    return replace(known.only(ordered), labels=vocabulary.labels)


def tuned_by(chain: Any, settings: Settings, vocabulary: Vocabulary, cells: Cells) -> Tuned:
    """Labels tuned by cells of annotated pictures.

    Raises:
        LabelError: nothing in the examples is labelled.
    """
    text = chain.text_bank.embed_vocabulary(vocabulary, settings.templates).float().cpu().clone()
    labels = vocabulary.labels
    background = labels.index(BACKGROUND) if BACKGROUND in labels else None
    start = Start(text, vocabulary.class_of_name, len(labels), settings.logit_scale, background)
    features, shares = targets(cells, background)
    if not len(features):
        raise LabelError(f"no pixel of the examples has one of the labels {', '.join(labels)}.")
    weight: str | float = WEIGHT
    held = left_out(start, cells) if len(cells.pictures) >= LEAST_TO_LEAVE_OUT else {}
    if held:
        weight = chosen(held)
    if isinstance(weight, str):
        rows = words(start, None if weight == "words" else best_threshold(start, features, shares))
    else:
        rows = fit(start, features, shares, weight)
    of_picture = [cells.picture(place).shares[:, :-1].float() for place in range(len(cells.pictures))]
    area = torch.stack([part.sum(dim=0) for part in of_picture])
    tried = WEIGHT if isinstance(weight, str) else weight
    report = {
        "pictures": dict(zip(labels, (area > 0).sum(dim=0).tolist(), strict=True)),
        "shares": dict(zip(labels, (area.sum(dim=0) / area.sum().clamp(min=1e-9)).tolist(), strict=True)),
        "left_out": {"words": held["words"].miou, "tuned": held[tried].miou} if held else None,
        "loss": {"words": held["words"].loss, "tuned": held[tried].loss} if held else None,
        "chosen": weight,
        "threshold": rows.threshold,
    }
    return Tuned(
        labels, vocabulary.names, tuple(vocabulary.class_of_name), _vectors(text, vocabulary, rows, background),
        tuple(rows.constants.tolist()), features=chain.features_by(settings), answers=torch.tensor(chain.answers()),
        dtype=str(chain.encoder.dtype).removeprefix("torch."), report=report, cells=cells,
    )  # fmt: skip


def _noted(pictures: Iterable[Picture], keys: deque[str]) -> Iterator[Image.Image]:
    """Pictures as they are read, a few ahead; ``keys`` has the hash of each."""
    for picture in pictures:
        read = read_picture(picture)
        keys.append(picture_key(np.asarray(read)))
        yield read


def _vectors(text: Tensor, vocabulary: Vocabulary, rows: Rows, background: int | None) -> tuple[tuple[int, Any], ...]:
    """Each name's row: its word's and what its class adds; a background that is a threshold has no word."""
    of_class = torch.tensor(vocabulary.class_of_name)
    anchor = text.clone()
    if rows.threshold is not None and background is not None:
        anchor[of_class == background] = 0
    return tuple(enumerate((anchor + rows.added[of_class]).numpy()))


def _vocabulary(labels: Labels | None, add: Tuned | None, settings: Settings) -> Vocabulary:
    if labels is None and add is None:
        raise LabelError("no labels were given; expected a list of names such as ['cat', 'dog'].")
    vocabulary: Vocabulary | None = add
    if labels is not None:
        vocabulary = parse_labels(labels, settings.background)
        if vocabulary.vectors:
            raise LabelError(
                "labels to be tuned are words, and some are vectors; give names, and examples as pictures."
            )
    assert vocabulary is not None
    if vocabulary.labels == (BACKGROUND,):
        raise LabelError(f"the label {BACKGROUND!r} is everything but the others; expected others beside it.")
    return Vocabulary(vocabulary.labels, vocabulary.names, vocabulary.class_of_name)


def _examples_of(add: Tuned, chain: Any, settings: Settings, vocabulary: Vocabulary) -> Cells:
    add.check(chain, settings)
    if add.cells is None:
        raise LabelError("the labels to add to have no examples beside them; expected some that tune has just made.")
    return add.cells.of_classes(add.labels, vocabulary.labels)
