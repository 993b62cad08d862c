"""ExCEL's training-free parts (arXiv 2503.20826) beside its method: text enriched by attributes, maps, affinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FileFormatError, SettingError
from ..fields import field_of
from ..storage.tensors import read_checkpoint
from .base import PatchScores, Place, Step
from .registry import register_step
from .scores import Kind
from .surgery import feature_surgery

if TYPE_CHECKING:
    from ..towers.running import Context

DROPPED = 1 - 0.9
"""Fraction of attributes, the least similar ones, that a name ignores."""
NORMALISATIONS = 3


@register_step("enrich")
@dataclass(frozen=True, kw_only=True)
class Enrich(Step):
    """Cosines with t' = ⟨t + softmax(t E) Eᵀ⟩ in the place of t, E a bank of attributes. "background" keeps its t.

    Fields:
        bank: a file with E (D, K), centres of the embeddings of attribute descriptions: of ``torch.save``, alone or
            first in a list as the authors publish theirs, or of safetensors under the name ``bank``.
    """

    on: ClassVar[Place] = "patches"
    summary: ClassVar[str] = "add similar attributes of a bank to each name"
    source: ClassVar[str] = "ExCEL, arXiv 2503.20826"
    bank: str = field_of("", "file with the attributes' centres, (D, K)", holds="path")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bank:
            raise SettingError("enrich got no bank; expected bank=FILE, a tensor (D, K) of attributes' centres.")

    def __call__(self, given: PatchScores) -> Tensor:
        text, labels = given.words.text, given.words.labels
        bank = load_bank(self.bank).to(text)
        if len(bank) != text.shape[1]:
            raise SettingError(
                f"{self.bank} has attributes of {len(bank)} values, and this model's words have {text.shape[1]}; "
                "expected a bank that was made with this model."
            )
        kept = torch.tensor([labels[c] == "background" for c in given.words.class_of_name], device=text.device)
        return given.features @ torch.where(kept[:, None], text, enriched(text, bank)).T


def load_bank(path: str | Path) -> Tensor:
    """E (D, K), in single precision.

    Raises:
        FileNotFoundError: no such file.
        FileFormatError: it holds no such tensor.
    """
    held = read_checkpoint(Path(path).expanduser())
    held = held.get("bank") if isinstance(held, Mapping) else held[0] if isinstance(held, (list, tuple)) else held
    if not isinstance(held, Tensor) or held.dim() != 2 or not held.is_floating_point():
        raise FileFormatError(f"{path} holds no bank; expected a tensor (D, K), alone, first in a list, or named bank.")
    return held.detach().float()


def enriched(text: Tensor, bank: Tensor) -> Tensor:
    """t' of unit embeddings (C, D) with a bank (D, K): (C, D). The least similar tenth of the attributes is left out.

    With fewer than ten attributes none is left out (the published slice would leave out all).
    """
    likeness = text @ bank
    lowest = likeness.topk(int(DROPPED * bank.shape[1]), dim=1, largest=False).indices
    shares = likeness.scatter(1, lowest, float("-inf")).softmax(dim=1)
    return F.normalize(text + shares @ bank.T, dim=1)


def calibrated_maps(tokens: Tensor, text: Tensor) -> Tensor:
    """ExCEL's maps: tokens (B, 1 + N, D), projected, CLS first, with names (C, D): (B, 1 + N, C) from 0 to 1.

    As published, features are divided by their norm over the *tokens* of a picture, CLS included, channel by channel,
    and each name's map goes from its smallest to its largest value over all tokens. Feature surgery between the two.
    """
    features = tokens / tokens.norm(dim=1, keepdim=True)
    scores = features @ text.T
    return zero_to_one(feature_surgery(scores, scores[:, 0]))


def zero_to_one(maps: Tensor) -> Tensor:
    """(B, N, K), each map from 0 to 1; a flat one is 0."""
    low, high = maps.amin(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1.0)


@register_step("affinity")
@dataclass(frozen=True, kw_only=True)
class Affinity(Step):
    """Spreads maps along the tower's own attention: map ← (M ⊙ a) map, for names that are known to be in the picture.

    M is the mean ordinary attention of the last blocks among patches, made doubly stochastic, symmetric, and squared. a
    is 1 inside the boxes around the high values of each map.

    Fields:
        blocks: number of last blocks whose attention is averaged.
        share: values above this fraction of a map's maximum count as high.
    """

    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "logit"
    summary: ClassVar[str] = "spread the maps of names that are present along the tower's own attention"
    source: ClassVar[str] = "ExCEL, arXiv 2503.20826"
    blocks: int = field_of(6, "number of last blocks whose attention is averaged", low=1)
    share: float = field_of(0.79, "values above this fraction of a map's maximum get boxes", low=0, high=1)

    def taps(self, depth: int) -> tuple[int, ...]:
        return tuple(range(max(0, depth - self.blocks), depth))

    def look(self, context: Context) -> Tensor:
        """M of each window, (B, N, N)."""
        maps = [context.taps[i].attention_map() for i in self.taps(context.depth)]
        return transition(mean_attention(maps, context.prefix_tokens))

    def __call__(self, given: PatchScores) -> Tensor:
        assert given.looked is not None, "it has taps"
        maps, grid = zero_to_one(given.scores.flatten(1, 2)), (given.scores.shape[1], given.scores.shape[2])
        refined = [spread(M, m, grid, self.share) for M, m in zip(given.looked, maps, strict=True)]
        return torch.stack(refined).view_as(given.scores)


def mean_attention(maps: list[Tensor], prefix: int) -> Tensor:
    """Of blocks' ordinary attention (B, H, T, T) the mean among patches, (B, N, N).

    As published, the first block counts its mean over heads, the others their sum.
    """
    parts = [maps[0].mean(dim=1), *(m.sum(dim=1) for m in maps[1:])]
    return torch.stack(parts).mean(dim=0)[:, prefix:, prefix:].float()


def transition(attention: Tensor) -> Tensor:
    """M (B, N, N): columns, then rows divided by their sums, three times; the mean with its transpose; squared."""
    M = attention
    for _ in range(NORMALISATIONS):
        M = M / M.sum(dim=1, keepdim=True)
        M = M / M.sum(dim=2, keepdim=True)
    M = (M + M.mT) / 2
    return M @ M


def spread(M: Tensor, maps: Tensor, grid: tuple[int, int], share: float = 0.79) -> Tensor:
    """(M ⊙ a) map of one picture: M (N, N), maps (N, K) from 0 to 1, each with a of its own."""
    shown = torch.stack([in_boxes(column.view(grid), share).flatten() for column in maps.T], dim=1)
    return M @ (shown * maps)


def in_boxes(scores: Tensor, share: float) -> Tensor:
    """a (h, w): 1 at the places inside one of `boxes`."""
    inside = torch.zeros_like(scores)
    for top, left, bottom, right in boxes(scores, share):
        inside[top:bottom, left:right] = 1
    return inside


def boxes(scores: Tensor, share: float) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) around each connected region above ``share`` of the map's 8-bit maximum.

    Scores (h, w) from 0 to 1. As published, a box that reaches the last row or column ends one before it.
    """
    h, w = scores.shape
    eight_bit = (scores * 255).to(torch.uint8)
    above = eight_bit > int(share * int(eight_bit.max()))
    numbers = torch.arange(1, h * w + 1, device=scores.device, dtype=torch.float32).view(1, 1, h, w) * above
    while True:  # each region's places take the highest number in it
        grown = F.max_pool2d(numbers, 3, stride=1, padding=1) * above
        if torch.equal(grown, numbers):
            break
        numbers = grown
    found = []
    for number in numbers[numbers > 0].unique():
        rows, columns = (numbers[0, 0] == number).nonzero(as_tuple=True)
        bottom, right = min(int(rows.max()) + 1, h - 1), min(int(columns.max()) + 1, w - 1)
        found.append((int(rows.min()), int(columns.min()), bottom, right))
    return found
