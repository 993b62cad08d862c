"""`Tuned`: labels whose rows and constants were learnt from annotated pictures, and the file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from ..errors import LabelError
from ..storage.files import write_atomically
from ..storage.fingerprint import ALIKE, alike
from ..storage.reading import brief
from .labels import Vocabulary

if TYPE_CHECKING:
    from ..memory.examples import Cells

HEADER = "sclip_plugin tuned 1"


@dataclass(frozen=True, eq=False)
class Tuned(Vocabulary):
    """Labels that were tuned by examples: use them wherever labels are used, with the model that they were made for.

    Attributes:
        labels, names, class_of_name, constants: as in `Vocabulary`.
        vectors: of every name, its row (D,) float32, of any length.
        features: what features depend on beside the model, by name.
        answers: the model's `Chain.answers`, (n, 64).
        dtype: of the model's weights, such as ``"float32"``.
        report: what was learnt from: ``"pictures"`` and ``"shares"`` (of all labelled area) of each label,
            ``"left_out"`` (mIoU of left-out pictures in percent, ``"words"`` and ``"tuned"``, None below three
            pictures), ``"chosen"`` (the weight λ that holds the rows near the words, or ``"words"`` or ``"threshold"``
            where left-out pictures do not gain) and ``"threshold"``, the cosine below which a pixel is background.
        cells: the examples; None if they are not known.

    `Segmenter.tune` makes it.
    """

    features: Mapping[str, Any] = field(default_factory=dict, repr=False)
    answers: Any = field(default=None, repr=False)
    dtype: str = "float32"
    report: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cells: Cells | None = field(default=None, repr=False)
    _fitting: set[str] = field(default_factory=set, init=False, repr=False)

    def check(self, chain: Any, settings: Any) -> None:
        """Refuse another model or other features than those that the rows were learnt from.

        Raises:
            LabelError: it names what differs.
        """
        features = chain.features_by(settings)
        differ = [
            f"{name} is {_said(features.get(name))}, and was {_said(self.features.get(name))}"
            for name in sorted({*features, *self.features})
            if features.get(name) != self.features.get(name)
        ]
        if differ:
            raise LabelError(
                f"the labels were tuned with other settings: {'; '.join(differ)}. Give the settings that sclip tune "
                "was given, or tune again."
            )
        weights = chain.weights()
        if weights in self._fitting:
            return
        kinds = [chain.encoder.dtype, getattr(torch, self.dtype)]
        kind = max(kinds, key=lambda dtype: ALIKE.get(dtype, 0))
        if not alike(torch.tensor(chain.answers()), torch.as_tensor(self.answers), kind):
            raise LabelError("the labels were tuned with another model, which answers otherwise; tune again with this.")
        self._fitting.add(weights)

    def only(self, classes: Sequence[Sequence[str]]) -> Tuned:
        """These classes, by their first names; one that was not tuned is what its names are in words.

        Raises:
            LabelError: none of them was tuned.
        """
        if not any(names[0] in self.labels for names in classes):
            asked = ", ".join(names[0] for names in classes)
            raise LabelError(f"none of {brief(asked)} was tuned; these were: {brief(', '.join(self.labels))}.")
        rows, constants = dict(self.vectors), []
        names: list[str] = []
        class_of_name: list[int] = []
        vectors = []
        for index, given in enumerate(classes):
            known = self.labels.index(given[0]) if given[0] in self.labels else None
            constants.append(0.0 if known is None else self.constants[known])
            own = [i for i, of in enumerate(self.class_of_name) if of == known]
            vectors += [(len(names) + place, rows[i]) for place, i in enumerate(own)]
            names += [self.names[i] for i in own] if own else list(given)
            class_of_name += [index] * (len(own) or len(given))
        return replace(
            self, labels=tuple(given[0] for given in classes), names=tuple(names), class_of_name=tuple(class_of_name),
            vectors=tuple(vectors), constants=tuple(constants), cells=None,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels as a safetensors file; beside it, as ``NAME.cells.safetensors``, the examples if known."""
        path = Path(path)
        write_atomically(path, self.as_bytes())
        if self.cells is not None:
            self.cells.save(cells_path(path))

    def as_bytes(self) -> bytes:
        """The labels' file, without the examples."""
        header = {name: getattr(self, name) for name in ("labels", "names", "class_of_name", "features", "dtype")}
        rows = torch.stack([torch.from_numpy(row) for _, row in self.vectors])
        tensors = {"rows": rows, "constants": torch.tensor(self.constants), "answers": torch.as_tensor(self.answers)}
        return save(tensors, {HEADER: json.dumps({**header, "report": self.report})})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tuned:
        """Read what `save` wrote, without the examples; `sclip_plugin.memory.examples.Cells` reads those.

        Raises:
            LabelError: no such file, or another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {})[HEADER])
                rows, constants, answers = (file.get_tensor(name) for name in ("rows", "constants", "answers"))
            labels, names, class_of_name = (tuple(said[name]) for name in ("labels", "names", "class_of_name"))
            if not len(rows) == len(names) == len(class_of_name) or len(constants) != len(labels):
                raise ValueError("its parts have different lengths")
            if not (torch.isfinite(rows).all() and torch.isfinite(constants).all()):
                raise ValueError("its rows hold NaN or infinite values")
            vectors = tuple(enumerate(rows.float().numpy()))
            return cls(
                labels, names, class_of_name, vectors, tuple(constants.tolist()), features=said["features"],
                answers=answers, dtype=said["dtype"], report=said["report"],
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LabelError(f"the labels' file {path} can't be read: no such file.") from error
        except Exception as error:  # whatever a broken or foreign file makes of the reader
            raise LabelError(f"{path} holds no tuned labels, as sclip tune writes them: {error}") from error


def cells_path(path: str | os.PathLike[str]) -> Path:
    """Where the examples of a file of tuned labels are.

    >>> cells_path("mine.safetensors").name
    'mine.cells.safetensors'
    """
    return Path(path).with_suffix(".cells.safetensors")


def _said(value: Any) -> str:
    """A value of a setting for people; of a part its class and options."""
    if not isinstance(value, Mapping):
        return brief(value)
    options = ", ".join(f"{name}={brief(option)}" for name, option in value.items() if name != "kind")
    return f"{str(value.get('kind')).rpartition('.')[2]}({options})"
