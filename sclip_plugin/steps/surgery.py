"""Feature surgery (CLIP Surgery, arXiv 2304.05653): subtracts what all names share; its maps and points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import PatchScores, Place, Step
from .registry import register_step
from .scores import Kind


@register_step("surgery")
@dataclass(frozen=True, kw_only=True)
class FeatureSurgery(Step):
    """S_ic = w_c s_ic - mean over c' of w_c' s_ic', w = p / mean(p), p = softmax(2 s) of the window's own embedding.

    With one name: x · (t - t_empty), with t_empty the embedding of the empty text in the same templates. Only the
    weights w change the best name of a patch: the subtraction is the same for all names.
    """

    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "logit"
    summary: ClassVar[str] = "weight names by the window's embedding, and subtract what all names share"
    source: ClassVar[str] = "CLIP Surgery, arXiv 2304.05653"

    def __call__(self, given: PatchScores) -> Tensor:
        if given.scores.shape[-1] == 1:
            return given.scores - given.features @ given.words.embed([""]).T
        return feature_surgery(given.scores.flatten(1, 2), given.windows @ given.words.text.T).view_as(given.scores)


def feature_surgery(scores: Tensor, of_image: Tensor) -> Tensor:
    """S of several names.

    Args:
        scores: (B, N, K), cosines of tokens with names.
        of_image: (B, K), those of the image embedding (CLS).

    Returns:
        (B, N, K).
    """
    p = (2 * of_image).softmax(dim=-1)
    weighted = scores * (p / p.mean(dim=-1, keepdim=True))[:, None]
    return weighted - weighted.mean(dim=-1, keepdim=True)


def similarity_map(scores: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Scores of patches (B, N, K), each name from 0 to 1 over its picture, at (H, W) pixels: (B, H, W, K)."""
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    maps = ((scores - low) / (high - low)).mT.unflatten(2, grid)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def points(
    scores: Tensor, grid: tuple[int, int], size: tuple[int, int], threshold: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Positive and negative points for SAM: the highest and the lowest places of one name's map.

    The map at half its size has n values of at least ``threshold`` (at most half of all values). The result has the n
    highest places, then the n lowest, both by ascending value.

    Args:
        scores: (N,) of the patches of one picture.
        grid: (h, w), N = h w.
        size: (H, W) of the picture in pixels.

    Returns:
        (2 n, 2) whole pixels (x, y), and (2 n,) labels: 1 positive, 0 negative.

    Example:
        >>> import torch
        >>> from sclip_plugin.steps.surgery import points
        >>> points(torch.tensor([0.0, 0.1, 0.2, 0.9] * 4), (4, 4), (64, 64))[1].tolist()
        [1, 1, 0, 0]
    """
    (h, w), (height, width) = grid, size
    small = F.interpolate(
        scores.reshape(1, 1, h, w).float(), size=(max(1, h // 2), max(1, w // 2)), mode="bilinear", align_corners=False
    )[0, 0]
    h, w = small.shape
    flat = ((small - small.min()) / (small.max() - small.min())).flatten()
    count = min(int((flat >= threshold).sum()), len(flat) // 2)
    order = flat.argsort(stable=True)
    chosen = torch.cat([order[len(order) - count :], order[:count]])
    x = ((chosen % w + 0.5) * width / w).clamp(max=width - 1).long()
    y = ((chosen // w + 0.5) * height / h).clamp(max=height - 1).long()
    labels = torch.tensor([1] * count + [0] * count, device=scores.device)
    return torch.stack([x, y], dim=1), labels
