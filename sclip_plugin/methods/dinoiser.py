"""CLIP-DINOiser (arXiv 2312.12359): patches pooled by correlations that a small convolution learned from DINO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..errors import SettingError, UnsupportedModelError
from ..fields import field_of
from ..guides.dinoiser import intermediate_tap, load_dinoiser
from .base import Dense, PictureMethod, PositionResize
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context


@register_method("dinoiser")
@dataclass(frozen=True, kw_only=True)
class CLIPDINOiser(PictureMethod):
    """F'_i = Σ_j A_ij F_j / (Σ_j A_ij + 1e-6): F are MaskCLIP's features, A correlations of the third last block.

    G is ln2's output in the third last block, P a 3 x 3 convolution of it, A_ij = ⟨P_i⟩·⟨P_j⟩ with entries below γ set
    to 0. F keep residual and FFN, as in MaskCLIP's own repository. The background of the paper is the step
    ``"dinoiser(weights=FILE)"``.

    Fields:
        weights: the authors' checkpoint (``last.pt``), or a file with its four tensors. It fits the one backbone that
            it was trained with: ViT-B/16, ``laion2b_s34b_b88k``.
        gamma: γ.
    """

    summary = "patches pooled by correlations that a convolution learned from DINO; weights=FILE"
    source = "CLIP-DINOiser, arXiv 2312.12359"
    position_resize: PositionResize = "size"
    weights: str = field_of("", "the authors' checkpoint, last.pt", holds="model")
    gamma: float = field_of(0.2, "correlations below it count as 0", low=-1, high=1)

    def taps(self, depth: int) -> tuple[int, ...]:
        return (intermediate_tap(depth),)

    def check_tower(self, tower: Tower) -> None:
        super().check_tower(tower)
        if not self.weights:
            raise SettingError("dinoiser got no weights; expected weights=FILE, the authors' checkpoint last.pt.")

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        prefix = context.prefix_tokens
        tokens = block.tokens + block.out(block.v)
        features = context.project(tokens + block.ffn(tokens))[:, prefix:]
        tap = context.taps[intermediate_tap(context.depth)]
        G = tap.norm2(tap.after_attention())[:, prefix:]
        with without_autocast(G.device):
            pooled = self.pool(features.float(), self.correlations(G.float(), context.grid))
        return Dense(pooled.to(features.dtype))

    def correlations(self, G: Tensor, grid: tuple[int, int]) -> Tensor:
        """A before γ: (B, N, C) to (B, N, N)."""
        weights = load_dinoiser(self.weights)
        kernel, bias = (weights[f"obj_proj.{part}"].to(G.device) for part in ("weight", "bias"))
        if kernel.shape[1] != G.shape[2]:
            raise UnsupportedModelError(
                f"{self.weights} was trained on a tower of width {kernel.shape[1]}, and this one has {G.shape[2]}; "
                "CLIP-DINOiser's own weights fit ViT-B/16, laion2b_s34b_b88k."
            )
        maps = F.pad(G.mT.unflatten(2, grid), (1, 1, 1, 1), mode="replicate")
        P = F.normalize(F.conv2d(maps, kernel, bias).flatten(2), dim=1)
        return P.mT @ P

    def pool(self, features: Tensor, A: Tensor) -> Tensor:
        """F': (B, N, D) and (B, N, N) to (B, N, D)."""
        A = A.masked_fill(A < self.gamma, 0.0)
        return A @ features / (A.sum(dim=-1, keepdim=True) + 1e-6)
