"""The methods that are one choice of attention in the last block: one line of formula each.

In the comments, s = d^-1/2 and q, k, v are the last block's, per head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SettingError
from ..fields import field_of
from .base import AttentionMethod
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("vanilla")
@dataclass(frozen=True, kw_only=True)
class Vanilla(AttentionMethod):
    """softmax(s q kᵀ) v: CLIP as it was trained."""

    summary = "ordinary attention, the baseline"
    source = "CLIP, arXiv 2103.00020"

    @property
    def is_the_block(self) -> bool:
        return self.residual and self.ffn and self.temperature == 1

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.q, block.k)]


@register_method("csa", aliases=("sclip",))
@dataclass(frozen=True, kw_only=True)
class CorrelativeSelfAttention(AttentionMethod):
    """(softmax(s q qᵀ) + softmax(s k kᵀ)) v, the sum not halved.

    Fields:
        projections: which of ``"q"``, ``"k"``, ``"v"`` and ``"x"`` (the ln1 output cut into heads: the identity
            projection) correlate with themselves and are summed over; the paper's ablation of W_r.
    """

    summary = "correlative self-attention: tokens attend to those with similar queries and similar keys"
    source = "SCLIP, arXiv 2312.01597"
    projections: tuple[str, ...] = ("q", "k")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.projections or not set(self.projections) <= {"q", "k", "v", "x"}:
            raise SettingError(
                f"csa got projections={self.projections!r}; expected one or more of 'q', 'k', 'v', 'x', "
                "for instance projections=('q', 'k')."
            )

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.heads(r), block.heads(r)) for r in self.projections]


@dataclass(frozen=True, kw_only=True)
class _WithoutResidual(AttentionMethod):
    """The successors of SCLIP drop the residual and the FFN of the last block."""

    residual: bool = False
    ffn: bool = False


@register_method("maskclip")
@dataclass(frozen=True, kw_only=True)
class MaskCLIP(_WithoutResidual):
    """v itself: each patch keeps its own value, as ClearCLIP's code has it. The temperature has no meaning here."""

    summary = "identity attention: each patch keeps its own value"
    source = "MaskCLIP, arXiv 2112.01071"

    def attend(self, block: BlockInput, context: Context) -> Tensor:
        return block.own_values


@register_method("kk")
@dataclass(frozen=True, kw_only=True)
class KeyKey(_WithoutResidual):
    """softmax(s k kᵀ) v."""

    summary = "key-key attention, NACLIP without its Gaussian"
    source = "NACLIP's ablation, arXiv 2404.08181"

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.k, block.k)]


@register_method("vv")
@dataclass(frozen=True, kw_only=True)
class ValueValue(_WithoutResidual):
    """softmax(s v vᵀ) v."""

    summary = "value-value attention"
    source = "CLIP Surgery, arXiv 2304.05653"

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.v, block.v)]


@register_method("clearclip")
@dataclass(frozen=True, kw_only=True)
class ClearCLIP(_WithoutResidual):
    """softmax(s q qᵀ) v."""

    summary = "query-query attention without residual and FFN"
    source = "ClearCLIP, arXiv 2407.12442"

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.q, block.q)]


@register_method("naclip")
@dataclass(frozen=True, kw_only=True)
class NACLIP(_WithoutResidual):
    """softmax(s k kᵀ + Ω) v, with Ω a Gaussian over patch distance.

    Fields:
        std: σ of the Gaussian, in patches.
    """

    summary = "key-key attention that favours each patch's neighbourhood"
    source = "NACLIP, arXiv 2404.08181"
    std: float = field_of(5.0, "σ of the Gaussian, in patches", above=0)

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        return [(block.k, block.k)]

    def bias(self, block: BlockInput, context: Context) -> Tensor:
        return gaussian_neighbourhood(context.grid, self.std, context.prefix_tokens, like=block.k)


def gaussian_neighbourhood(grid: tuple[int, int], std: float, prefix_tokens: int, *, like: Tensor) -> Tensor:
    """Ω = exp(-‖p - p'‖² / (2σ²)) over grid positions p, p'; rows and columns of prefix tokens are 0.

    Args:
        grid: (h, w) in patches.
        std: σ in patches.
        prefix_tokens: tokens in front of the patches (CLS).
        like: a tensor whose device and dtype the result has.

    Returns:
        (P + N, P + N), N = h w in row-major order.
    """
    h, w = grid
    rows = torch.arange(h, device=like.device, dtype=torch.float32)
    columns = torch.arange(w, device=like.device, dtype=torch.float32)
    # The Gaussian of the distance is the product of those of its row and column parts.
    over_rows = torch.exp(-((rows[:, None] - rows) ** 2) / (2 * std**2))
    over_columns = torch.exp(-((columns[:, None] - columns) ** 2) / (2 * std**2))
    omega = (over_rows[:, None, :, None] * over_columns[None, :, None, :]).reshape(h * w, h * w)
    return torch.nn.functional.pad(omega, (prefix_tokens, 0, prefix_tokens, 0)).to(like.dtype)
