"""ResCLIP: attention of earlier blocks (RCS) and of a first segmentation (SFR), over any base (arXiv 2411.15851)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import budget, without_autocast
from ..errors import SettingError
from ..fields import field_of
from ..imaging.refine import refine_pixels
from ..imaging.resampling import upsampled
from .base import AttentionMethod, Method
from .depth import at_depth
from .registry import make_method, register_method

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_method("resclip")
@dataclass(frozen=True, kw_only=True)
class ResCLIP(Method):
    """RCS: A ← τ_r ((1-λ_r) A + λ_r Ā). SFR: scores z ← τ_s ((1-λ_s) z + λ_s S) before the base's softmax and Ω.

    A is the base's attention (for csa the sum of both), Ā the mean of earlier blocks' ordinary attention, head by
    head. S says which patches a first pass, with RCS if on and without SFR, gave the same label. Residual and FFN are
    the base's.

    Fields:
        base: an `AttentionMethod` whose attention is a softmax of similarities (naclip, clearclip, csa, vanilla, kk,
            vv), by name or with its own options, such as ``make_method("csa", {"ffn": False})``.
        rcs: (τ_r, λ_r), or None for off.
        sfr: (τ_s, λ_s), or None for off. It needs ``text``, which the segmenter sets.
        rcs_blocks: numbers, from 1 of 12, of the blocks averaged in Ā; another depth uses the same fractions.
        sfr_threshold: pixels with a lower best probability take label 0 in the first pass.
        logit_scale: factor on cosines before the softmax of the first pass; None: the segmenter's, or 40 without one.
        delete_same_entity: weaken S between patches of one label with another label on the line between them.
        text: (K, D), the normalised text embeddings of all names.
    """

    summary = "adds attention of earlier blocks (rcs) and of a first segmentation (sfr) to a base method"
    source = "ResCLIP, arXiv 2411.15851"
    base: str | AttentionMethod = "naclip"
    rcs: tuple[float, float] | None = field_of((2.0, 0.3), "(τ, λ) of the attention of earlier blocks; None: off")
    sfr: tuple[float, float] | None = field_of((2.2, 0.7), "(τ, λ) of the first segmentation; None: off")
    rcs_blocks: tuple[int, ...] = field_of((6, 7, 8, 9), "blocks that are averaged, of 12", low=1)
    sfr_threshold: float = field_of(0.15, "less probable pixels take label 0 in the first pass", low=0, high=1)
    logit_scale: float | None = field_of(None, "factor on the first pass's cosines; None: the settings'", above=0)
    delete_same_entity: bool = True
    text: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        base = make_method(self.base)
        if not (
            isinstance(base, AttentionMethod)
            and type(base).attend is AttentionMethod.attend
            and type(base).similarities is not AttentionMethod.similarities
        ):
            raise SettingError(
                f"resclip got base {base.name!r}, whose attention is not a softmax of similarities; "
                "expected one such as 'naclip', 'clearclip', 'csa' or 'vanilla'."
            )
        object.__setattr__(self, "base", base)

    @property
    def needs_text(self) -> bool:
        return self.sfr is not None

    def bind(self, *, text: Tensor, logit_scale: float, image_mean: Tensor, image_std: Tensor) -> Method:
        if not self.needs_text:
            return self
        return dataclasses.replace(self, text=text, logit_scale=self.logit_scale or logit_scale)

    def rcs_taps(self, depth: int) -> tuple[int, ...]:
        return tuple(number - 1 for number in at_depth(self.rcs_blocks, depth)) if self.rcs else ()

    def taps(self, depth: int) -> tuple[int, ...]:
        return tuple(sorted({*self.rcs_taps(depth), *cast(AttentionMethod, self.base).taps(depth)}))

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        S = self.semantic_feedback(block, context) if self.sfr else None
        return self.tokens(block, context, S)

    def tokens(self, block: BlockInput, context: Context, S: Tensor | None) -> Tensor:
        """Tokens after the block, with RCS if on and with SFR if S is given.

        All of it is fused attention, since RCS is linear in the maps: τ_r ((1-λ_r) A v + λ_r Ā v).
        """
        base, v = cast(AttentionMethod, self.base), block.v
        scale, bias = block.scale * base.temperature, base.bias(block, context)
        if S is not None:
            tau, lam = self.sfr  # type: ignore[misc]
            P = (lam * S).float()  # S is in half precision, and λ S is rounded to it again
            scale, bias = scale * tau * (1 - lam), tau * P + (0.0 if bias is None else bias)
        attended = torch.stack([attention(a, b, v, scale, bias) for a, b in base.similarities(block)]).sum(dim=0)
        if self.rcs:
            tau, lam = self.rcs
            earlier = [context.taps[index] for index in self.rcs_taps(context.depth)]
            residual = torch.stack([attention(e.q, e.k, v, e.scale) for e in earlier]).mean(dim=0)
            attended = tau * ((1 - lam) * attended + lam * residual)
        return base.combine(block, block.out(attended))

    def semantic_feedback(self, block: BlockInput, context: Context) -> Tensor:
        """S from the labels of a first pass: (B, 1, P + N, P + N), in half precision."""
        if self.text is None:
            raise SettingError(
                "resclip with sfr on needs the text embeddings of all names, text=(K, D) and normalised, for its first "
                "pass. Use sclip_plugin.Segmenter, which fills them in, or pass text=…, or turn sfr off with sfr=None."
            )
        prefix, pixels = context.prefix_tokens, context.pixel_values.float()
        features = context.project(self.tokens(block, context, None)[:, prefix:])
        with torch.no_grad(), without_autocast(features.device):
            cosine = F.normalize(features.float(), dim=-1) @ self.text.to(features.device, torch.float32).T
            labels = torch.stack([self.first_pass(c, p, context.grid) for c, p in zip(cosine, pixels, strict=True)])
        labels = patch_labels(labels, context.grid, context.tower.patch_size, classes=len(self.text))
        M = same_label(labels, self.delete_same_entity)
        S = (M / M.amax(dim=(-2, -1), keepdim=True)).half()
        return F.pad(S, (prefix, 0, prefix, 0))[:, None]

    def first_pass(self, cosine: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """The label of every pixel of one picture, (H, W): upsampled, refined by PAMR, 0 where no name is likely.

        Args:
            cosine: (N, K), of patches with names.
            pixels: (3, H, W).
            grid: (h, w), N = h w.
        """
        # Upsampling and PAMR are linear: with more names than patches, they are applied to the patches' own weights.
        patches_first = cosine.shape[1] > cosine.shape[0]
        columns = torch.eye(len(cosine), device=cosine.device) if patches_first else cosine
        size = (pixels.shape[-2], pixels.shape[-1])
        refined = refine_pixels(upsampled(columns.unflatten(0, grid), size).flatten(0, 1), pixels)
        labels = []
        for part in refined.split(max(1, budget(cosine.device).tile_values // cosine.shape[1])):
            logits = part @ cosine if patches_first else part
            probability, label = ((self.logit_scale or 40.0) * logits).softmax(dim=1).max(dim=1)
            labels.append(label.where(probability >= self.sfr_threshold, 0))
        return torch.cat(labels).view(size)


def attention(a: Tensor, b: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale a bᵀ + bias) v, fused."""
    bias = None if bias is None else bias.to(a.dtype)
    return F.scaled_dot_product_attention(a, b, v, attn_mask=bias, scale=scale)


def patch_labels(labels: Tensor, grid: tuple[int, int], patch_size: tuple[int, int], classes: int) -> Tensor:
    """The most frequent label of each patch's pixels, of equals the smallest: (B, H, W) to (B, h, w)."""
    (h, w), (height, width) = grid, patch_size
    pixels = labels[:, : h * height, : w * width].unflatten(2, (w, width)).unflatten(1, (h, height))
    of_patch = pixels.transpose(2, 3).flatten(3)
    votes = torch.zeros(*of_patch.shape[:3], classes, device=labels.device)
    votes = votes.scatter_add(3, of_patch, torch.ones_like(of_patch, dtype=votes.dtype))
    return votes.argmax(dim=3)  # the first of equals


def same_label(labels: Tensor, delete_same_entity: bool) -> Tensor:
    """M: 1 where two patches have one label, weakened where the line between them leaves it, each row smoothed.

    Args:
        labels: (B, h, w), of patches.
        delete_same_entity: multiply by exp(-D / D_max) where a patch on the line has another label.

    Returns:
        (B, N, N), N = h w in row-major order.
    """
    flat = labels.flatten(1)
    M = (flat[:, :, None] == flat[:, None, :]).float()
    if delete_same_entity:
        h, w = labels.shape[1:]
        D = chebyshev(h, w, labels.device)
        M = M * torch.exp(-D / max(h - 1, w - 1, 1)).where(line_leaves_label(labels), 1.0)
    M = smooth_rows(M)
    return M / (M.sum(dim=-1, keepdim=True) + 1e-8)


def chebyshev(h: int, w: int, device: torch.device) -> Tensor:
    """D = max(|Δrow|, |Δcol|) of all pairs of patches: (N, N), integers."""
    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    by_rows, by_columns = (rows[:, None] - rows).abs(), (columns[:, None] - columns).abs()
    return torch.maximum(by_rows[:, None, :, None], by_columns[None, :, None, :]).reshape(h * w, h * w)


def line_leaves_label(labels: Tensor) -> Tensor:
    """Whether another label than patch i's lies on the line from i to j: (B, h, w) to (B, N, N), bool.

    The line is sampled at t = 0, 1/D_max, …, 1, coordinates rounded half to even, and the first D + 1 samples are
    looked at. A sample's row depends only on the rows of i and j, its column only on their columns, so one step
    for all N² pairs is a look-up of columns and then one of whole rows.
    """
    batch, h, w = labels.shape
    steps = max(h - 1, w - 1)
    labels = labels.to(torch.int16)
    D = chebyshev(h, w, labels.device).to(torch.int16)
    own = labels[:, :, None, :, None]  # of patch i; axes (row i, row j, column i, column j)
    leaves = torch.zeros(batch, h, h, w, w, dtype=torch.bool, device=labels.device)
    reach = D.view(h, w, h, w).transpose(1, 2)
    for step in range(1, steps + 1):
        at_columns = labels.index_select(2, sample(w, step, steps, labels.device))
        at_both = at_columns.index_select(1, sample(h, step, steps, labels.device))
        leaves |= (at_both.view_as(leaves) != own) & (reach >= step)
    return leaves.transpose(2, 3).reshape(batch, h * w, h * w)


def sample(size: int, step: int, steps: int, device: torch.device) -> Tensor:
    """a + (b - a) step / steps, rounded half to even, for all pairs (a, b) of 0 … size - 1: (size²), in integers."""
    a = torch.arange(size, device=device)
    numerator = (a[:, None] * steps + (a[None, :] - a[:, None]) * step).flatten()
    below, rest = numerator // steps, numerator % steps
    up = (2 * rest > steps) | ((2 * rest == steps) & (below % 2 == 1))
    return below + up


def smooth_rows(M: Tensor, sigma: float = 5.0) -> Tensor:
    """Each row as a signal over j, zero padded, under a normalised Gaussian of min(N, 6σ+1) taps, one more if even."""
    count = M.shape[-1]
    taps = min(count, int(6 * sigma + 1)) // 2 * 2 + 1
    offset = torch.arange(taps, device=M.device, dtype=M.dtype) - taps // 2
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    return F.conv1d(M.reshape(-1, 1, count), kernel.view(1, 1, -1), padding=taps // 2).view_as(M).clamp_min(0.0)
