"""All resizing: of a picture's pixels as the protocol has it, and of scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..device import without_autocast

ROWS_AT_ONCE = 512


def target_size(height: int, width: int, short_side: int, long_side: int = 2048) -> tuple[int, int]:
    """(height, width) after the protocol's resizing: short side to ``short_side``, long side at most ``long_side``,
    aspect kept, rounded half up."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear without antialiasing, to the bit as OpenCV's INTER_LINEAR computes it on uint8.

    That is fixed-point arithmetic: weights in 1/2048, and what is cut off on the way makes a picture darker by an
    eighth of a level on average. The papers' label maps were made on such pictures.

    Args:
        pixels: (3, H, W) uint8, on any device.
        size: (height, width).

    Only the rows that are needed are widened to integers, so a large picture costs no large copy.
    """
    height, width = pixels.shape[-2:]
    if (height, width) == tuple(size):
        return pixels
    device = pixels.device
    rows, row_weights = _taps(height, size[0], at_border=False)
    columns, column_weights = _taps(width, size[1], at_border=True)
    (first, second), (left, right) = columns.to(device), column_weights.to(device)[..., None, None]
    by_rows = pixels.permute(1, 2, 0)
    out = torch.empty(pixels.shape[0], *size, dtype=torch.uint8, device=device)
    for start in range(0, size[0], ROWS_AT_ONCE):
        band = slice(start, min(start + ROWS_AT_ONCE, size[0]))
        used, places = rows[:, band].unique(return_inverse=True)
        # Selections go along the first axis, where they copy whole runs of memory.
        taken = by_rows[used.to(device)].transpose(0, 1).contiguous()
        across = (taken[first].int().mul_(left) + taken[second].int().mul_(right)).bitwise_right_shift_(4)
        across = across.transpose(0, 1).contiguous()
        total = torch.tensor(2, dtype=torch.int32, device=device)
        for place, weight in zip(places.to(device), row_weights[:, band].to(device)[..., None, None], strict=True):
            total = across[place].mul_(weight).bitwise_right_shift_(16).add_(total)
        out[:, band] = total.bitwise_right_shift_(2).clamp_(0, 255).permute(2, 0, 1)
    return out


def _taps(size: int, target: int, at_border: bool) -> tuple[Tensor, Tensor]:
    """For each target position its two source positions and their weights in 1/2048, (2, target) each.

    Beyond the outermost source positions OpenCV takes a column whole (``at_border``), but of a row two shares, each cut
    off by itself.
    """
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * (size / target) - 0.5).float()
    first = position.floor()
    weight = position - first
    if at_border:
        weight = weight.masked_fill((first < 0) | (first >= size - 1), 0)
    places = torch.stack([first, first + 1]).clamp(0, size - 1).long()
    return places, torch.stack([((1 - weight) * 2048).round(), (weight * 2048).round()]).to(torch.int32)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 pixels (..., 3, H, W) to what the tower reads; floating-point pixels are taken as normalised already."""
    if pixels.is_floating_point():
        return pixels
    mean, std = (values.to(pixels.device)[:, None, None] for values in (mean, std))
    return (pixels.to(mean.dtype) / 255 - mean) / std


def to_picture(pixels: Tensor, mean: Tensor, std: Tensor) -> Image.Image:
    """The 8-bit RGB picture of (3, H, W) pixels, uint8 or normalised: `normalise` backwards, rounded."""
    if pixels.is_floating_point():
        mean, std = (values.to(pixels.device).view(3, 1, 1) for values in (mean, std))
        pixels = ((pixels[:3].float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


def bilinear_matrix(size: int, target: int) -> Tensor:
    """(target, size): bilinear resizing of one side, align_corners False."""
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=False)[0].T


def upsampled(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, K) to (H, W, K), bilinear, align_corners False; nothing depends on the values."""
    rows, columns = (bilinear_matrix(old, new).to(scores) for old, new in zip(scores.shape, size, strict=False))
    band = weighted(rows, scores.flatten(1)[None])[0].unflatten(1, scores.shape[1:])
    return weighted(columns, band)


def weighted(weights: Tensor | None, scores: Tensor) -> Tensor:
    """(m, n) by (B, n, K), in single precision under autocast too; the scores themselves where weights are None."""
    if weights is None:
        return scores
    with without_autocast(scores.device):
        return torch.bmm(weights.expand(len(scores), -1, -1), scores)
