"""ITACLIP's test-time augmentation (arXiv 2411.12044): original, grey, blurred and flipped windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)
BLUR_TAPS, BLUR_SIGMA = 11, 5.0


def unit_features(features: Tensor) -> Tensor:
    """(B, D, h, w) to (B, h w, D) float32 of unit length."""
    return F.normalize(features.flatten(2).float(), dim=1).transpose(1, 2)


def engineered(pixels: Tensor, plain: Tensor, look: Callable[[Tensor], Tensor], share: float) -> Tensor:
    """c · mean of {original, grey, blurred} + (1 - c) · mean of the two flips, in features.

    The features of each view have unit length, their mean does not. Scores are linear in the mean, and bilinear
    upsampling is symmetric, so these give the published logits before upsampling.

    Args:
        pixels: (B, 3, H, W), normalised.
        plain: (B, D, h, w), features of the original windows.
        look: function from pixels to features.
        share: c, 0 to 1.

    Returns:
        (B, h w, D) float32.
    """
    changed = torch.stack([unit_features(f) for f in (plain, look(grey(pixels)), look(blurred(pixels)))]).mean(dim=0)
    flipped = [unit_features(look(pixels.flip(axis)).flip(axis)) for axis in (2, 3)]
    return share * changed + (1 - share) * torch.stack(flipped).mean(dim=0)


def grey(pixels: Tensor) -> Tensor:
    """The weighted mean of the normalised channels, in all three."""
    weights = pixels.new_tensor(GREY)[:, None, None]
    return (pixels * weights).sum(dim=1, keepdim=True).expand_as(pixels)


def blurred(pixels: Tensor) -> Tensor:
    """Under a normalised Gaussian of 11 x 11, σ 5, borders reflected."""
    offset = torch.arange(BLUR_TAPS, device=pixels.device, dtype=pixels.dtype) - BLUR_TAPS // 2
    kernel = torch.exp(-0.5 * (offset / BLUR_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    channels, reach = pixels.shape[1], BLUR_TAPS // 2
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    down = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(down, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
