"""ITACLIP (arXiv 2411.12044) and CLIPtrase (arXiv 2407.08268): csa with earlier blocks' maps, and with a third map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from .attention import CorrelativeSelfAttention
from .base import AttentionMethod
from .depth import at_depth
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("itaclip")
@dataclass(frozen=True, kw_only=True)
class ITACLIP(AttentionMethod):
    """½ A v + ½ Ā v: A the last block's csa map softmax(s q qᵀ) + softmax(s k kᵀ), Ā the mean of earlier blocks' own.

    The rest of the paper works after any method: the setting ``views`` and the steps ``"auxiliary"`` and
    ``"closing(3)"``.

    Fields:
        maps: ``"csa"``, or ``"ordinary"`` attention softmax(s q kᵀ) in all blocks, as with the authors' ``attn_self``
            off.
        earlier_blocks: numbers, from 1 of 12, of the blocks averaged in Ā. Another depth uses the same fractions, which
            is our choice: the authors publish only 12 blocks.
        earlier_share: weight of Ā, 0 to 1; A has the rest.
    """

    summary = "csa in the last block and in earlier ones, averaged; without FFN"
    source = "ITACLIP, arXiv 2411.12044"
    ffn: bool = False
    maps: Literal["csa", "ordinary"] = field_of("csa", "attention maps that are averaged")
    earlier_blocks: tuple[int, ...] = field_of((7, 8, 10), "blocks that are averaged, of 12", low=1)
    earlier_share: float = field_of(0.5, "weight of the earlier blocks' maps", low=0, high=1)

    def taps(self, depth: int) -> tuple[int, ...]:
        return tuple(number - 1 for number in at_depth(self.earlier_blocks, depth)) if self.earlier_blocks else ()

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.q, block.k)] if self.maps == "ordinary" else [(block.q, block.q), (block.k, block.k)]

    def attend(self, block: BlockInput, context: Context) -> Tensor:
        earlier = [self.mapped(context.taps[index], block.v) for index in self.taps(context.depth)]
        own = self.mapped(block, block.v)
        if not earlier:
            return own
        return (1 - self.earlier_share) * own + self.earlier_share * torch.stack(earlier).mean(dim=0)

    def mapped(self, block: BlockInput, v: Tensor) -> Tensor:
        """The map of one block applied to the last block's v, (B, H, T, d)."""
        scale = block.scale * self.temperature
        parts = [F.scaled_dot_product_attention(a, b, v, scale=scale) for a, b in self.similarities(block)]
        return sum(parts[1:], parts[0])


@register_method("cliptrase")
@dataclass(frozen=True, kw_only=True)
class CLIPtrase(CorrelativeSelfAttention):
    """(softmax(s q qᵀ) + softmax(s k kᵀ) + softmax(s v vᵀ)) v, residual and FFN kept: `csa` with three projections.

    The clusters of patches that the paper labels by majority are the step ``"clusters"``.
    """

    summary = "q-q, k-k and v-v attention added, residual and FFN kept"
    source = "CLIPtrase, arXiv 2407.08268"
    projections: tuple[str, ...] = ("q", "k", "v")
