"""SAM 3's rule from what its detector says of a word to one map of values from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..fields import field_of
from .base import PictureMethod, PositionResize
from .registry import register_method

if TYPE_CHECKING:
    from ..towers import Tower

MASKS_AT_ONCE = 8


@dataclass(frozen=True)
class WordSeen:
    """What the detector says of one word in one view.

    Attributes:
        presence: (), how surely the word is in the view, 0 to 1.
        scores: (n,), scores of the queries that count, 0 to 1.
        masks: (n, h, w), logits of their masks.
        semantic: (h, w), logits of the semantic head.
    """

    presence: Tensor
    scores: Tensor
    masks: Tensor
    semantic: Tensor

    def to(self, device: torch.device | str) -> WordSeen:
        return WordSeen(*(values.to(device) for values in vars(self).values()))


@register_method("sam3")
@dataclass(frozen=True, kw_only=True)
class Sam3(PictureMethod):
    """How the outputs of SAM 3 for a word become one map. It is the one method of a SAM 3, and of no CLIP.

    A query's score is s = σ(its logit) · p, with the presence p. The map is max(I, S · p): I is the maximum over the
    queries of σ(mask) · s, S is σ of the semantic head. Masks are resized as logits.

    Fields:
        conf: queries with a lower or equal score do not count.
        queries: only so many queries with the largest logits count, as ConceptBank has it with 30. 0: all.
        presence_squared: p · max(I, S), as in SegEarth-OV3's code, where presence counts twice for queries.
    """

    summary: ClassVar[str] = "SAM 3's own detector, one pass a word; for SAM 3 models alone"
    source: ClassVar[str] = "SegEarth-OV3, arXiv 2512.08730; ConceptBank, arXiv 2602.06333"
    position_resize: ClassVar[PositionResize] = "bilinear"  # type: ignore[misc]  # no option: the tower is SAM 3's own
    conf: float = field_of(0.3, "queries with a lower or equal score do not count", low=0, high=1)
    queries: int = field_of(0, "only so many queries with the largest logits count; 0: all", low=0, high=10_000)
    presence_squared: bool = field_of(False, "presence counts twice for queries, as in SegEarth-OV3's code")

    @classmethod
    def needs_outside_model(cls) -> bool:
        return True

    def check_tower(self, tower: Tower) -> None:
        raise UnsupportedModelError(
            f"the method sam3 asks SAM 3's own detector, which {type(tower.trunk).__name__} does not have; expected "
            "Segmenter.from_pretrained('facebook/sam3'), or another method."
        )

    def seen(self, logits: Tensor, presence: Tensor, masks: Tensor, semantic: Tensor) -> WordSeen:
        """The queries that count.

        Args:
            logits: (Q,), without presence.
            presence: (), logit.
            masks: (Q, h, w), logits.
            semantic: (h, w), logits.
        """
        there = presence.float().sigmoid()
        scores = logits.float().sigmoid() * there
        counted = scores > self.conf
        if self.queries and self.queries < len(logits):
            counted &= torch.zeros_like(counted).index_fill(0, logits.topk(self.queries).indices, True)
        return WordSeen(there, scores[counted], masks[counted].float(), semantic.float())

    def fused(self, word: WordSeen, rows: Tensor, columns: Tensor) -> Tensor:
        """The map (H, W) of a word.

        Args:
            word: what the detector says.
            rows, columns: (H, h) and (W, w), the matrices that resize its logits.
        """
        semantic = (rows @ word.semantic @ columns.T).sigmoid()
        best = torch.zeros_like(semantic)
        for first in range(0, len(word.scores), MASKS_AT_ONCE):
            some = slice(first, first + MASKS_AT_ONCE)
            resized = rows @ word.masks[some] @ columns.T
            best = torch.maximum(best, (resized.sigmoid() * word.scores[some, None, None]).amax(dim=0))
        if self.presence_squared:
            return word.presence * torch.maximum(best, semantic)
        return torch.maximum(best, semantic * word.presence)
