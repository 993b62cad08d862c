"""PEARL: keys rotated towards the queries in the last block (arXiv 2603.21528)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..fields import field_of
from .base import AttentionMethod
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("pearl")
@dataclass(frozen=True, kw_only=True)
class Pearl(AttentionMethod):
    """softmax((q (k R)ᵀ + α k_c k_cᵀ) s) v, where R turns the centred keys k_c towards the centred queries.

    Both are centred by means whose weights are the queries' lengths, CLS left out. R stands for the polar factor of
    k_cᵀ q_c. It is what five steps of a Newton-Schulz iteration give, as in the authors' code. These steps have not
    converged, so R is no rotation; the published figures are of it.

    Fields:
        alpha: weight of k_c k_cᵀ; the authors take 0.3 on Cityscapes and ADE20K.
        iterations: steps towards the polar factor.
    """

    summary = "turns keys towards queries, and adds key-key attention"
    source = "PEARL, arXiv 2603.21528"
    residual: bool = False
    ffn: bool = False
    alpha: float = field_of(0.08, "weight of key-key attention", low=0)
    iterations: int = field_of(5, "steps towards the polar factor", low=1, high=8)

    def attend(self, block: BlockInput, context: Context) -> Tensor:
        q, k, v = (x.float() for x in (block.q, block.k, block.v))
        with without_autocast(q.device):  # half precision has no room for these products
            return self._attended(q, k, v, block.scale, context.prefix_tokens).to(block.v.dtype)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, scale: float, prefix_tokens: int) -> Tensor:
        weights = q.norm(dim=-1, keepdim=True)
        weights[..., :prefix_tokens, :] = 0
        weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)
        centred = [x - (weights * x).sum(dim=2, keepdim=True) for x in (q, k)]
        turned = k @ turn(centred[1].mT @ centred[0], self.iterations)
        # One product of longer vectors gives the sum of both.
        beside = self.alpha**0.5 * centred[1]
        queries, keys = torch.cat([q, beside], dim=-1), torch.cat([turned, beside], dim=-1)
        return F.scaled_dot_product_attention(queries, keys, v, scale=scale * self.temperature)


def turn(product: Tensor, iterations: int) -> Tensor:
    """Towards the polar factor of M (…, d, d), by coupled Newton-Schulz steps for (MᵀM)^-1/2."""
    squared = product.mT @ product
    size = squared.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
    identity = torch.eye(product.shape[-1], device=product.device, dtype=product.dtype)
    root, inverse = squared / size + 1e-6 * identity, identity.expand_as(squared)
    for _ in range(iterations):
        step = 0.5 * (3 * identity - inverse @ root)
        root, inverse = root @ step, step @ inverse
    return product @ inverse / size.sqrt()
