"""ProxyCLIP (arXiv 2408.04883): an outside model's features give the attention of CLIP's last block.

S = ⟨f⟩ᵀ⟨f⟩ of the guide's tokens, z = γ (S - β mean(S)), z < 0 ← -∞, A = softmax(z), one for all heads, applied to v
of the patches, which is resized to the guide's grid. No residual, no FFN. What comes out lives on the guide's grid.

Where the published code fails: a row without any z ≥ 0 (a uniform window) attends to itself only, instead of NaN; the
mean is each window's own; oblong windows have their right grids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..defaults import CLIP_MEAN, CLIP_STD
from ..device import without_autocast
from ..errors import SettingError
from ..fields import field_of
from ..guides import Guide, as_guide
from .base import Dense, Method
from .registry import register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context

SIMILARITIES_AT_ONCE = 2**22


@register_method("proxyclip")
@dataclass(frozen=True, kw_only=True)
class ProxyCLIP(Method):
    """Attention of an outside model's features over CLIP's values, on the outside model's grid.

    Fields:
        guide: the outside model: a name (``"facebook/dino-vitb8"``, a folder, ``"timm:vit_base_patch8_224.dino"``), a
            model in hand, or a `Guide`; see `sclip_plugin.guides.as_guide`.
        beta: β; the threshold is β times the mean similarity.
        gamma: γ, sharpness of the softmax.
        image_mean, image_std: normalisation of ``context.pixel_values``, to recover the picture for the guide. The
            segmenter sets them; None: CLIP's.
    """

    summary = "similarity of an outside model's features (DINO, SAM, ...) as attention, on that model's grid"
    source = "ProxyCLIP, arXiv 2408.04883"
    guide: str | nn.Module | Guide = field_of(
        "facebook/dino-vitb8", "the outside model: a name, a folder, or a model", holds="model"
    )
    beta: float = field_of(1.2, "β: the threshold is β times the mean similarity", low=0)
    gamma: float = field_of(3.0, "γ, sharpness of the softmax", above=0)
    image_mean: tuple[float, ...] | None = field_of(None, "of the pixels; CLIP's where None", repr=False)
    image_std: tuple[float, ...] | None = field_of(None, "of the pixels; CLIP's where None", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.guide, (str, nn.Module, Guide)) or not self.guide:
            raise SettingError(f"{self.name} got guide={self.guide!r}; expected a model's name, a folder, or a model.")

    def bind(self, *, text: Tensor, logit_scale: float, image_mean: Tensor, image_std: Tensor) -> Method:
        return dataclasses.replace(self, image_mean=tuple(image_mean.tolist()), image_std=tuple(image_std.tolist()))

    def guide_of(self, tower: Tower) -> Guide:
        """The outside model beside a tower."""
        weight = next(tower.trunk.parameters())
        return as_guide(self.guide, device=weight.device, dtype=weight.dtype)

    def guides(self, tower: Tower) -> tuple[Guide, ...]:
        return (self.guide_of(tower),)

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (3, 1, 1), that pixels are normalised with."""
        mean, std = (
            torch.tensor(values or default, device=like.device)[:, None, None]
            for values, default in ((self.image_mean, CLIP_MEAN), (self.image_std, CLIP_STD))
        )
        return mean, std

    def tokens_at_once(self, tower: Tower, size: tuple[int, int]) -> int:
        a, b = self.guide_of(tower).grid(size)
        return max(a * b, super().tokens_at_once(tower, size))

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Sides up to the next multiple of 56 = lcm(8, 14), as the authors pad windows."""
        height, width = (-(-side // 56) * 56 for side in size)
        return height, width

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        guide, prefix = self.guide_of(context.tower), context.prefix_tokens
        mean, std = self.statistics(context.pixel_values)
        with torch.no_grad():
            seen = guide.look(context.pixel_values.float() * std + mean)
            features = seen.tokens.to(block.tokens.device)
        v = resized_values(block.v[:, :, prefix:], context.grid, seen.grid)
        with without_autocast(v.device):
            attended = proxy_attention(features, v.float(), self.beta, self.gamma).to(v.dtype)
        out = block.out(attended.unflatten(2, (block.num_heads, -1)).transpose(1, 2))
        # Rows for CLS and registers, which the method does not compute.
        return Dense(torch.cat([block.tokens[:, :prefix].to(out.dtype), out], dim=1), seen.grid)


def resized_values(v: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Values per head (B, H, N, d) on one grid to (B, n, H d) on another, bilinear."""
    merged = v.transpose(2, 3).flatten(1, 2).unflatten(2, grid)
    if tuple(grid) != tuple(target):
        merged = F.interpolate(merged.float(), size=target, mode="bilinear", align_corners=False).to(v.dtype)
    return merged.flatten(2).mT


def mean_similarity(features: Tensor) -> Tensor:
    """mean(S) over all n² entries of each window, the diagonal included, without S: (B, n, C) to (B,)."""
    return F.normalize(features.float(), dim=-1).mean(dim=1).square().sum(dim=-1)


def proxy_attention(features: Tensor, values: Tensor, beta: float, gamma: float, mean: Tensor | None = None) -> Tensor:
    """A v, in blocks of rows: no more than a few million similarities are at hand at once.

    Args:
        features: (B, n, C'), the guide's, not normalised.
        values: (B, n, C).
        beta, gamma: β and γ.
        mean: (B,), in place of each window's own mean similarity.

    Returns:
        (B, n, C) in single precision.
    """
    unit = F.normalize(features.float(), dim=-1)
    threshold = beta * (mean_similarity(features) if mean is None else mean)
    out = torch.empty(*values.shape, dtype=torch.float32, device=values.device)
    for rows in row_blocks(len(unit), unit.shape[1]):
        out[:, rows] = attention_rows(unit, threshold, gamma, rows) @ values.float()
    return out


def attention_rows(unit: Tensor, threshold: Tensor, gamma: float, rows: slice) -> Tensor:
    """Some rows of A, (B, rows, n), of unit features (B, n, C') and β mean(S) (B,)."""
    S = unit[:, rows] @ unit.mT
    z = gamma * (S - threshold[:, None, None])
    z = z.masked_fill(z < 0, -torch.inf)
    alone = ~(z > -torch.inf).any(dim=-1)  # also where S is NaN
    places = torch.arange(rows.start, rows.start + S.shape[1], device=S.device)
    itself = places[:, None] == torch.arange(S.shape[2], device=S.device)
    z = torch.where(alone[..., None], torch.where(itself, 0.0, -torch.inf), z)
    return z.softmax(dim=-1)


def row_blocks(batch: int, count: int) -> Iterator[slice]:
    at_once = max(1, SIMILARITIES_AT_ONCE // (batch * count))
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))
