"""CLIP Surgery (arXiv 2304.05653) and ExCEL's static calibration (arXiv 2503.20826): second paths, CLS untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from .base import Method, PositionResize
from .registry import register_method
from .second_path import last_blocks, second_path, taps_of_last

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("surgery")
@dataclass(frozen=True, kw_only=True)
class CLIPSurgery(Method):
    """z ← z + out(softmax(s v vᵀ) v) through the last ``blocks`` blocks; CLS is the untouched path's.

    Fields:
        blocks: number of last blocks that the second path runs through, or all if there are fewer. The number is
            absolute, as in the authors' code, which uses 6 for ViT-L/14 with its 24 blocks.
    """

    summary = "a second path of v-v attention through the last blocks: CLIP Surgery's architecture"
    source = "CLIP Surgery, arXiv 2304.05653"
    position_resize: PositionResize = "bilinear"
    blocks: int = field_of(6, "the second path runs through that many of the last blocks", low=1)

    def taps(self, depth: int) -> tuple[int, ...]:
        return taps_of_last(self.blocks, depth)

    def attend(self, block: BlockInput) -> Tensor:
        """The attention's output per head, (B, H, T, d)."""
        return F.scaled_dot_product_attention(block.v, block.v, block.v, scale=block.scale)

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        z = second_path(last_blocks(self.blocks, block, context), self.attend)[-1]
        if not context.prefix_tokens or context.depth == 1:  # a ResNet's pool has no untouched path beside it
            return z
        return torch.cat([block.ordinary_rows(context.prefix_tokens).to(z.dtype), z[:, context.prefix_tokens :]], dim=1)


@register_method("excel")
@dataclass(frozen=True, kw_only=True)
class ExCEL(CLIPSurgery):
    """z ← z + out(A v), A = Σ over heads of (softmax(s q qᵀ) + softmax(s k kᵀ) + softmax(s v vᵀ)) / 3, one for all.

    Fields:
        blocks: as in `CLIPSurgery`. The authors publish only ViT-B/16; keeping 5 on deeper towers is our choice.
    """

    summary = "a second path whose q-q, k-k and v-v attention all heads share: ExCEL's static visual calibration"
    source = "ExCEL, arXiv 2503.20826"
    blocks: int = field_of(5, "the second path runs through that many of the last blocks", low=1)

    def attend(self, block: BlockInput) -> Tensor:
        maps = [(block.scale * z @ z.mT).softmax(dim=-1).sum(dim=1) for z in (block.q, block.k, block.v)]
        return torch.stack(maps).mean(dim=0)[:, None] @ block.v
