"""PAMR, pixel-adaptive mask refinement: smooth score maps along the colours of the picture.

Source: Araslanov and Roth, arXiv 2005.08104, as SCLIP's code uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..defaults import PAMR_STEPS
from ..device import Budget, budget

PIXELS_AT_ONCE = 2**14


def pamr(mask: Tensor, image: Tensor, steps: int = PAMR_STEPS, dilations: tuple[int, ...] = (8, 16)) -> Tensor:
    """Refine score maps so that neighbouring pixels of similar colour agree.

    Each step replaces a pixel's scores by the affinity-weighted sum of its 8 neighbours at every dilation. The
    affinity is the softmax over all of them of the channel mean of -|x - x_n| / (1e-8 + 0.1 σ), where σ is the
    standard deviation, per channel, over the pixel (once per dilation) and its neighbours.

    Args:
        mask: (B, K, h, w) scores; resized to the picture (bilinear, corners aligned) where the sizes differ.
        image: (B, 3, H, W), the normalised picture.
        steps: how often the sum is taken.
        dilations: distances of the neighbours in pixels.

    Returns:
        (B, K, H, W).

    Example:
        >>> import torch
        >>> from sclip_plugin.imaging.refine import pamr
        >>> pamr(torch.rand(1, 3, 40, 60), torch.rand(1, 3, 40, 60), steps=2).shape
        torch.Size([1, 3, 40, 60])
    """
    if mask.shape[-2:] != image.shape[-2:]:
        mask = F.interpolate(mask, size=image.shape[-2:], mode="bilinear", align_corners=True)
    refined = [refine_pixels(m.flatten(1).T, i, steps, dilations).T for m, i in zip(mask, image, strict=True)]
    return torch.stack(refined).view_as(mask)


def refine_pixels(
    scores: Tensor,
    image: Tensor,
    steps: int = PAMR_STEPS,
    dilations: tuple[int, ...] = (8, 16),
    limits: Budget | None = None,
) -> Tensor:
    """`pamr` of one picture, scores of a pixel in one piece: a step is one weighted gather of rows.

    Args:
        scores: (H W, K), pixels in row-major order. The result is linear in them.
        image: (3, H, W).
        limits: how many values are smoothed together; what suits the device where None.

    Returns:
        (H W, K).
    """
    pixels = image.flatten(1)
    index = neighbours((image.shape[-2], image.shape[-1]), dilations, image.device)
    own = torch.arange(len(index), dtype=index.dtype, device=index.device)[:, None]
    parts = torch.cat([index, own], dim=1).split(PIXELS_AT_ONCE)
    weights = torch.cat([affinity(pixels, part, len(dilations)) for part in parts]).to(scores.dtype)
    refined = []
    for names in scores.split(max(16, (limits or budget(scores.device)).pamr_values // len(scores)), dim=1):
        names = names.contiguous()
        for _ in range(steps):
            names = F.embedding_bag(index, names, per_sample_weights=weights, mode="sum")
        refined.append(names)
    return refined[0] if len(refined) == 1 else torch.cat(refined, dim=1)


def neighbours(size: tuple[int, int], dilations: tuple[int, ...], device: torch.device) -> Tensor:
    """For each pixel the indices of its 8 neighbours at every dilation, the border repeated: (H W, 8 D), int32."""
    height, width = size
    rows = torch.arange(height, dtype=torch.int32, device=device)[:, None]
    columns = torch.arange(width, dtype=torch.int32, device=device)
    offsets = [(d * dy, d * dx) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    index = [(rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1) for dy, dx in offsets]
    return torch.stack(index, dim=-1).flatten(0, 1)


def affinity(pixels: Tensor, index: Tensor, times: int) -> Tensor:
    """How much each pixel takes from its neighbours, (N, 8 D), summing to 1.

    Args:
        pixels: (C, H W) of the whole picture.
        index: (N, 8 D + 1), some rows of `neighbours` with the pixel itself as the last column.
        times: D, how often the pixel itself counts in mean and deviation: once per dilation.
    """
    around, own = pixels[:, index[:, :-1]], pixels[:, index[:, -1], None]
    mean = (around.sum(dim=2, keepdim=True) + times * own) / (9 * times)
    squares = (around - mean).square_().sum(dim=2, keepdim=True) + times * (own - mean).square()
    deviation = (squares / (9 * times - 1)).sqrt()
    distance = (around - own).abs_() / (1e-8 + 0.1 * deviation)
    return distance.mean(dim=0).neg_().softmax(dim=1)
