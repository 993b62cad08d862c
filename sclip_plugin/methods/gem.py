"""GEM: a second path of self-self attention beside the last blocks (Bousselham et al., arXiv 2312.00878)."""

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


@register_method("gem")
@dataclass(frozen=True, kw_only=True)
class GEM(Method):
    """t ← t + out(mean over A_v, A_k, A_q of A v), through the last ``depth`` - 1 blocks, without FFN.

    The second path starts as the token stream that enters the first of these blocks. Its attention is computed from the
    untouched path, which goes on as usual.

    Fields:
        depth: the second path runs through the last depth - 1 blocks, or through all if there are fewer. The number is
            absolute: the authors' library uses 7 for every model, including ViT-L/14 with its 24 blocks.
        iterations: number of steps z ← softmax(τ z zᵀ) z that sharpen the clusters before A_z is computed.
    """

    summary = "a second path of v-v, k-k and q-q attention through the last blocks"
    source = "GEM, arXiv 2312.00878"
    position_resize: PositionResize = "size_antialias"
    depth: int = field_of(7, "the second path runs through the last depth - 1 blocks", low=2)
    iterations: int = field_of(1, "number of steps that sharpen the clusters", low=0)

    def taps(self, depth: int) -> tuple[int, ...]:
        return taps_of_last(self.depth - 1, depth)

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        return second_path(last_blocks(self.depth - 1, block, context), self.self_self_attention)[-1]

    def self_self_attention(self, block: BlockInput) -> Tensor:
        """Mean over z of v, k, q of softmax(τ z zᵀ) v with z normalised and iterated: (B, H, T, d)."""
        # τ = s times the mean length of the ln1 output's tokens: one number per picture.
        tau = block.scale * block.x.norm(dim=-1).mean(dim=-1)[:, None, None, None]

        def attend(z: Tensor, values: Tensor) -> Tensor:  # softmax(τ z zᵀ) values
            return F.scaled_dot_product_attention(tau * z, z, values, scale=1.0)

        total = torch.zeros_like(block.v)
        for z in (block.v, block.k, block.q):
            for _ in range(self.iterations):
                z = F.normalize(z, dim=-1)
                z = attend(z, z)
            total = total + attend(F.normalize(z, dim=-1), block.v)
        return total / 3
