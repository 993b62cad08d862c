"""What a text tower is: prompts in, joint-space embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import without_autocast
from ..storage.fingerprint import identity_of, moment_of

# Short, as prompts are, with what cleaning changes, and long.
PROBES = ("a", "a photo of a Cat, and a dog.", "it is a  very " + "long " * 24 + "text")


@dataclass(frozen=True)
class Read:
    """Prompts as a text tower reads them.

    Attributes:
        tokens: of each prompt, with all that the model wants around it; cut where it is too long.
        cut: which prompts were too long.
    """

    tokens: list[tuple[int, ...]]
    cut: list[bool]


@dataclass(frozen=True, eq=False)
class TextSide:
    """What of a model words go through: all of it but the parts whose names begin so. Read anew each time: layers and
    weights may be replaced under a tower.
    """

    model: nn.Module
    but: tuple[str, ...] = ()

    def parameters(self) -> list[Tensor]:
        return [p for name, p in self.model.named_parameters() if not name.startswith(self.but)]


class TextTower(ABC):
    """A text tower with its tokenizer.

    Attributes:
        context_length: the most tokens it reads, start and end included.
        anew: makes this tower again of the model as it is now, whose parts may have been replaced; None where it is
            made of parts alone.
    """

    context_length: int
    anew: Callable[[], TextTower] | None = None

    def __init__(self, side: TextSide) -> None:
        self.side = side

    @property
    def device(self) -> torch.device:
        return next(p.device for name, p in self.side.model.named_parameters() if not name.startswith(self.side.but))

    @property
    def dtype_of_weights(self) -> torch.dtype:
        """The least exact of them."""
        types = {p.dtype for p in self.side.parameters() if p.is_floating_point()}
        return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)

    @abstractmethod
    def read(self, prompts: Sequence[str]) -> Read:
        """Prompts as tokens, cut to `context_length`."""

    @abstractmethod
    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """What `read` gave to embeddings, (len(tokens), D)."""

    def ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """What the tokenizer makes of prompts: two that differ in one number may be embedded otherwise."""
        return self.read(prompts).tokens

    @torch.inference_mode()
    def answers(self) -> Tensor:
        """Unit embeddings of `PROBES`, (3, D) float32: what the model says now, whatever its weights are."""
        with without_autocast(self.device):
            return F.normalize(self.encode(self.read(PROBES).tokens).float(), dim=-1)

    def fingerprint(self) -> str:
        """A hash of the text tower's weights, adapters and activations; see `identity_of`."""
        return identity_of(self.side.model, self.side.but)

    def moment(self) -> str:
        """What changes whenever the text tower or its tokenizer was changed in place; see `moment_of`."""
        return f"{moment_of(self.side.model, self.side.but)} {self.ids(PROBES)}"


def cut_to(tokens: list[list[int]], limit: int) -> Read:
    """Whole texts to what a tower of ``limit`` positions reads: the end token stays."""
    cut = [len(ids) > limit for ids in tokens]
    kept = [(*ids[: limit - 1], ids[-1]) if long else tuple(ids) for ids, long in zip(tokens, cut, strict=True)]
    return Read(kept, cut)
