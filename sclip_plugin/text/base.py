"""What a text tower is: prompts in, joint-space embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fingerprint import fingerprint


@dataclass(frozen=True)
class Read:
    """Prompts as a text tower reads them.

    Attributes:
        tokens: of each prompt, with all that the model wants around it; cut where it is too long.
        cut: which prompts were too long.
    """

    tokens: list[tuple[int, ...]]
    cut: list[bool]


class TextTower(ABC):
    """A text tower with its tokenizer.

    Attributes:
        context_length: the most tokens it reads, start and end included.
    """

    context_length: int

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters

    @property
    def device(self) -> torch.device:
        return self._parameters[0].device

    @abstractmethod
    def read(self, prompts: Sequence[str]) -> Read:
        """Prompts as tokens, cut to `context_length`."""

    @abstractmethod
    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """What `read` gave to embeddings, (len(tokens), D)."""

    def fingerprint(self) -> str:
        """A hash that changes with any one weight of the text tower."""
        return fingerprint(self._parameters)

    def versions(self) -> tuple[tuple[int, int], ...]:
        """Where the weights lie and how often they were written to: changes whenever a weight is changed in place."""
        return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self._parameters)


def cut_to(tokens: list[list[int]], limit: int) -> Read:
    """Whole texts to what a tower of ``limit`` positions reads: the end token stays."""
    cut = [len(ids) > limit for ids in tokens]
    kept = [(*ids[: limit - 1], ids[-1]) if long else tuple(ids) for ids, long in zip(tokens, cut, strict=True)]
    return Read(kept, cut)
