"""PAMR, pixel-adaptive mask refinement: smooth score maps along the colours of the picture.

Source: Araslanov and Roth, arXiv 2005.08104, as SCLIP's code uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def pamr(mask: Tensor, image: Tensor, steps: int = 10, dilations: tuple[int, ...] = (8, 16)) -> Tensor:
    """Refine score maps so that neighbouring pixels of similar colour agree.

    Each step replaces a pixel's scores by the affinity-weighted sum of its 8 neighbours at every dilation. The affinity is
    the softmax over all of them of the channel mean of -|x - x_n| / (1e-8 + 0.1 σ), where σ is the standard deviation,
    per channel, over the pixel (once per dilation) and its neighbours.

    Args:
        mask: (B, K, h, w) scores; resized to the picture (bilinear, corners aligned) where the sizes differ.
        image: (B, 3, H, W), the normalised picture.
        steps: how often the sum is taken.
        dilations: distances of the neighbours in pixels.

    Returns:
        (B, K, H, W).

    Example:
        >>> import torch
        >>> from sclip_plugin.refine import pamr
        >>> pamr(torch.rand(1, 3, 40, 60), torch.rand(1, 3, 40, 60), steps=2).shape
        torch.Size([1, 3, 40, 60])
    """
    if mask.shape[-2:] != image.shape[-2:]:
        mask = F.interpolate(mask, size=image.shape[-2:], mode="bilinear", align_corners=True)
    weights = affinity(image, dilations)
    return torch.stack([_propagate(m, w, steps, dilations) for m, w in zip(mask, weights, strict=True)])


def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Affinity of each pixel to its neighbours, (B, 8 · len(dilations), H, W), summing to 1 over the neighbours."""
    radius = max(dilations)
    height, width = image.shape[-2:]
    padded = F.pad(image, [radius] * 4, mode="replicate")

    def shifted(dy: int, dx: int) -> Tensor:
        return padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]

    neighbours = [shifted(d * dy, d * dx) for d in dilations for dy, dx in _NEIGHBOURS]
    count = 9 * len(dilations)
    mean = (sum(neighbours) + len(dilations) * image) / count
    squares = len(dilations) * (image - mean) ** 2
    for neighbour in neighbours:
        squares = squares + (neighbour - mean) ** 2
    deviation = (squares / (count - 1)).sqrt()
    tolerance = 1e-8 + 0.1 * deviation
    closeness = torch.stack([-((image - n).abs() / tolerance).mean(dim=1) for n in neighbours], dim=1)
    return closeness.softmax(dim=1)


def _propagate(mask: Tensor, weights: Tensor, steps: int, dilations: tuple[int, ...]) -> Tensor:
    """``steps`` weighted sums over neighbours: (K, H, W) by weights (8 D, H, W), one channel's map at a time in cache."""
    radius = max(dilations)
    height, width = mask.shape[-2:]
    shifts = [(radius + d * dy, radius + d * dx) for d in dilations for dy, dx in _NEIGHBOURS]
    for _ in range(steps):
        padded = F.pad(mask[None], [radius] * 4, mode="replicate")[0]
        mask = torch.zeros_like(mask)
        for (y, x), weight in zip(shifts, weights, strict=True):
            mask.addcmul_(padded[:, y : y + height, x : x + width], weight)
    return mask
