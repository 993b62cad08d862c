"""SC-CLIP: repair outlier patches and let earlier blocks say which patches belong together (arXiv 2411.15869)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from ..fields import field_of
from .base import Method
from .depth import at_depth
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("scclip")
@dataclass(frozen=True, kw_only=True)
class SCCLIP(Method):
    """X ← repair(F_11), aggregated by F_9; last block, attending by F_9 and k; + that of ΣF_4…F_10; aggregated by F_4.

    F_b are the tokens after block b, counted from 1. The numbers of blocks below are for a tower of 12; on another
    depth the blocks at the same fractions are taken (`at_depth`), and X is always what enters the last block.

    Fields:
        beta: similarities below it count as 0 in the aggregation.
        early_layer: b of the features whose similarity is the attention of the last block.
        late_layer: b of the features that aggregate the output of the last block.
        multi_layers: first and last b of the features summed for the multi-level branch.
        cls_residual: weight of the CLS token that is added to each patch; nothing without a CLS token.
        lof_neighbours: neighbours of the local outlier factor; all other patches if there are fewer.
        lof_contamination: fraction of patches taken for outliers.
    """

    summary = "repairs outlier patches and aggregates patches by earlier blocks' similarity"
    source = "SC-CLIP, arXiv 2411.15869"
    beta: float = field_of(0.4, "similarities below it count as 0", low=-1, high=1)
    early_layer: int = field_of(9, "block of the features whose similarity is the attention", low=1)
    late_layer: int = field_of(4, "block of the features that aggregate the output", low=1)
    multi_layers: tuple[int, int] = field_of((4, 10), "first and last block of the features that are summed", low=1)
    cls_residual: float = field_of(0.3, "weight of CLS added to each patch")
    lof_neighbours: int = field_of(30, "neighbours of the local outlier factor", low=1)
    lof_contamination: float = field_of(0.05, "fraction of patches taken for outliers", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multi_layers[0] > self.multi_layers[1]:
            raise SettingError(
                f"scclip got multi_layers={self.multi_layers!r}; expected the first and the last of a range: (4, 10)."
            )

    def levels(self, depth: int) -> tuple[int, int, tuple[int, ...]]:
        """Early, late and multi-level b on a tower of that depth."""
        first, last = self.multi_layers
        (early,), (late,) = at_depth((self.early_layer,), depth), at_depth((self.late_layer,), depth)
        return early, late, at_depth(range(first, last + 1), depth)

    def taps(self, depth: int) -> tuple[int, ...]:
        early, late, multi = self.levels(depth)
        return tuple(sorted({early, late, *multi}))  # what enters the block of index b is what left block b

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        prefix, grid = context.prefix_tokens, context.grid
        early, late, multi = self.levels(context.depth)
        after = {b: context.taps[b].tokens for b in (early, late, *multi)}

        X = block.tokens[:, prefix:]
        outliers = local_outliers(X, self.lof_neighbours, self.lof_contamination)
        G = cosine_similarity(repair(after[early][:, prefix:], outliers, grid))
        L = cosine_similarity(after[late][:, prefix:])

        X = self.aggregate(repair(X, outliers, grid), G)
        X = self.attend(block, torch.cat([block.tokens[:, :prefix], X], dim=1), G)
        R = self.attend(block, torch.stack([after[b] for b in multi]).sum(dim=0), G)
        X = self.aggregate(X + R, L)
        # The method defines no CLS of its own: the prefix is that of the ordinary block.
        return torch.cat([block.ordinary_rows(prefix).to(X.dtype), X], dim=1) if prefix else X

    def attend(self, block: BlockInput, tokens: Tensor, G: Tensor) -> Tensor:
        """out(A v) + 0.3 c over the patches alone, A = ½ (softmax(3 (G - mean), negatives left out) + softmax(s k kᵀ)).

        Args:
            block: the last one.
            tokens: (B, P + N, C) that enter it; the first of P is CLS, c.
            G: (B, N, N), similarities that all heads share.

        Returns:
            (B, N, C).
        """
        prefix = tokens.shape[1] - G.shape[1]
        at = block.at(tokens)
        k, v = at.k[:, :, prefix:], at.v[:, :, prefix:]
        centred = 3.0 * (G - G.mean(dim=(-2, -1), keepdim=True))
        allowed = centred >= 0
        by_G = centred.masked_fill(~allowed, float("-inf")).softmax(dim=-1).to(v.dtype)[:, None] @ v
        by_k = F.scaled_dot_product_attention(k, k, v, scale=block.scale)
        # A row without any allowed entry (rounding, where all patches are equal) falls back to the second term.
        by_G = torch.where(allowed.any(dim=-1)[:, None, :, None], by_G, by_k)
        attended = block.out((by_G + by_k) / 2)
        return attended + self.cls_residual * tokens[:, :1] if prefix else attended

    def aggregate(self, X: Tensor, G: Tensor) -> Tensor:
        """(G_β / (row sum + 1e-6)) X, where G_β is G with entries below β set to 0."""
        G = G.masked_fill(G < self.beta, 0.0)
        return (G / (G.sum(dim=-1, keepdim=True) + 1e-6)).to(X.dtype) @ X


def cosine_similarity(X: Tensor) -> Tensor:
    """⟨X⟩⟨X⟩ᵀ in single precision, (B, N, C) to (B, N, N)."""
    X = F.normalize(X.float(), dim=-1)
    return X @ X.transpose(-1, -2)


def local_outliers(X: Tensor, neighbours: int, contamination: float) -> Tensor:
    """Patches whose local outlier factor is above its 1 - ``contamination`` quantile in their picture: (B, N), bool.

    Distances are squared Euclidean. As the published code has it, reach is the larger of a distance and the patch's
    *own* k-distance (the original LOF takes the neighbour's): so it is always the k-distance, and a patch's density is
    1 over that, up to a factor that the ratio of densities cancels.
    """
    count = X.shape[1]
    if count < 2:
        return torch.zeros(X.shape[:2], dtype=torch.bool, device=X.device)
    X = X.float()  # squared distances between CLIP's outlier tokens exceed half precision
    X = X - X.mean(dim=1, keepdim=True)  # for accuracy: distances stay, lengths shrink
    itself = torch.eye(count, dtype=torch.bool, device=X.device)
    distance = torch.cdist(X, X).square().masked_fill(itself, float("inf"))
    nearest, index = distance.topk(min(neighbours, count - 1), largest=False)
    density = 1.0 / nearest[..., -1].clamp_min(1e-12)
    of_neighbours = density[:, None, :].expand_as(distance).gather(2, index)
    factor = of_neighbours.mean(dim=-1) / density
    return factor > factor.quantile(1 - contamination, dim=-1, keepdim=True)


def repair(X: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each outlier becomes the mean of its up to 8 neighbours on the grid that are none; without any it stays.

    Args:
        X: (B, N, C) patches in row-major order.
        outliers: (B, N), bool.
        grid: (h, w), N = h w.
    """
    inlier = (~outliers)[:, None].unflatten(2, grid).to(X.dtype)
    pictures = X.transpose(1, 2).unflatten(2, grid)
    # Means over 3 x 3; an outlier in the middle is not counted, and what lies outside the grid counts in neither.
    total = F.avg_pool2d(pictures * inlier, 3, stride=1, padding=1)
    count = F.avg_pool2d(inlier, 3, stride=1, padding=1)
    replaced = (inlier == 0) & (count > 0)
    mean = total / count.where(count > 0, 1.0)
    return torch.where(replaced, mean, pictures).flatten(2).transpose(1, 2)
