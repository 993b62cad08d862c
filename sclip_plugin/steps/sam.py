"""The step ``sam``: refines labels by SAM's masks, as Trident (arXiv 2411.09219) does, after any method.

Each connected region of a class prompts SAM with its box, the place of its best score, and the class's scores as a mask
prompt. Masks with a high predicted IoU set the label and multiply its scores. Pixels under no such mask keep their
labels. Prompts are found at half the picture's size, as published; masks have the full size.

If the scores of a picture would take more than 256 MiB, the step works at a smaller size and transfers changed labels
to the full label map.

Two details of the published code are kept. Regions whose mask was rejected get their scores back, but not their labels.
With ``channel_axis=False`` the mask prompt lacks its axis of channels, as in the published figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError, UnsupportedModelError
from ..fields import field_of
from ..guides import Guide, as_guide
from ..guides.prompts import PromptedGuide, SamPicture, row_blocks
from ..importing import needs
from .base import Decided, Place, Step
from .registry import register_step
from .scores import GivenScores

MASK_FACTOR = 0.005
MASKS_AT_ONCE = 4


@dataclass(frozen=True)
class Prompts:
    """The regions of one class, n of them.

    Attributes:
        index: of the class.
        points: (n, 2), (x, y) of the best score in each region.
        boxes: (n, 4), (x_min, y_min, x_max, y_max), pixel indices.
        regions: (n, h, w) of bool.
    """

    index: int
    points: Tensor
    boxes: Tensor
    regions: Tensor


@register_step("sam")
@dataclass(frozen=True, kw_only=True)
class SamPrompts(Step):
    """Prompts SAM with the regions of each class; SAM's masks set the labels.

    Fields:
        model: SAM: a name (``"facebook/sam-vit-base"``), a folder, a ``SamModel``, or a `Guide`.
        coarse_thresh: τ: regions and mask prompts leave out pixels with a lower score.
        sam_iou_thresh: reject masks with a predicted IoU of at most this.
        minimal_area: least area of a region in pixels, at half the picture's size.
        channel_axis: False: the mask prompt without its axis of channels, as in the published figures.
    """

    summary: ClassVar[str] = "prompt SAM with the regions of each class; its masks set the labels"
    source: ClassVar[str] = "Trident, arXiv 2411.09219"
    on: ClassVar[Place] = "labels"
    model: str | nn.Module | Guide = field_of(
        "facebook/sam-vit-base", "SAM: a name, a folder, or a model", holds="model"
    )
    coarse_thresh: float = field_of(0.1, "τ, least score of a region's pixels", low=0, high=1)
    sam_iou_thresh: float = field_of(0.8, "reject masks with a predicted IoU of at most this")
    minimal_area: int = field_of(225, "least area of a region, in pixels at half the picture's size", low=1)
    channel_axis: bool = field_of(True, "False: the mask prompt as in the published figures")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, (str, nn.Module, Guide)) or not self.model:
            raise SettingError(f"sam got model={self.model!r}; expected a name, a folder, or a model.")

    def __call__(self, given: Decided) -> Decided:
        scores, whole = given.full_scores, torch.from_numpy(given.labels).long()
        size = (scores.shape[1], scores.shape[2])
        labels = F.interpolate(whole[None, None].float(), size=size)[0, 0].long()
        new, new_scores = self.refined(scores, labels, given)
        if size != tuple(whole.shape):
            both = torch.stack([(new != labels), new])[None].float()
            changed, larger = F.interpolate(both, size=tuple(whole.shape))[0]
            new = torch.where(changed > 0, larger.long(), whole)
        return given.changed(labels=new.to(torch.int16).numpy(), scores=GivenScores(new_scores.numpy()))

    @torch.no_grad()
    def refined(self, given_scores: Tensor, given_labels: Tensor, given: Decided) -> tuple[Tensor, Tensor]:
        """Labels (H, W) and scores (K, H, W) by SAM's masks."""
        shown = given.shown.picture()  # one that is not known is said before a model is fetched
        guide = as_guide(self.model, device=given.device, dtype=given.dtype)
        if not isinstance(guide, PromptedGuide):
            raise UnsupportedModelError(
                f"{type(guide.module).__name__} takes no prompts; expected SAM, such as 'facebook/sam-vit-base'."
            )
        height, width = given_labels.shape
        half = (max(1, height // 2), max(1, width // 2))
        scores = resized(given_scores, half)
        labels = F.interpolate(given_labels[None, None].float(), size=half)[0, 0].long()
        prompts = list(find_prompts(scores, labels, self.coarse_thresh, self.minimal_area))
        if not prompts:
            return given_labels, given_scores
        picture = guide.read(shown, given.patch_size)

        new = torch.zeros_like(given_scores)
        failed = torch.zeros(half, dtype=torch.bool)
        any_kept = False
        for found in prompts:
            low, iou = self.masks(guide, picture, found, scores[found.index], (height, width))
            kept = iou > self.sam_iou_thresh
            if kept.any():
                any_kept = True
                best = best_mask(low[kept], picture, guide.side, (height, width)).to(new)
                new[found.index] = best.sigmoid() * given_scores[found.index] * (best > 0)
            failed |= found.regions[~kept].any(dim=0)
        if not any_kept:
            return given_labels, given_scores
        refined = torch.where(new.amax(dim=0) > 0, new.argmax(dim=0), given_labels)
        back = F.interpolate(failed[None, None].float(), size=(height, width))[0, 0] > 0
        return refined, torch.where(back, torch.maximum(new, given_scores), new)

    def masks(
        self, guide: PromptedGuide, picture: SamPicture, found: Prompts, scores: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution masks (n, h', w') of the regions of a class, on SAM's device, and predicted IoU (n,).

        Args:
            scores: (h, w), the class's at half size.
            size: (height, width) at full size.
        """
        points, boxes = in_square(found, (scores.shape[0], scores.shape[1]), guide.side)
        a, b = picture.seen.grid
        mask = mask_prompt(scores, size, 4 * a, self.coarse_thresh)
        low, iou = guide.masks(picture.seen.embedding, points, boxes, mask, self.channel_axis)
        return low, iou.cpu()


def find_prompts(scores: Tensor, labels: Tensor, threshold: float, minimal_area: int) -> Iterator[Prompts]:
    """The regions, connected over corners too, of each class that reaches the threshold anywhere.

    Args:
        scores: (K, h, w).
        labels: (h, w), below 0 for none.
    """
    measure = needs("skimage.measure", "masks")
    if threshold > 0:
        labels = labels.masked_fill(scores.amax(dim=0) < threshold, -1)
    for index, own in enumerate(scores):
        of_class = labels == index
        if own.max() < threshold or not of_class.any():
            continue
        ids = measure.label(of_class.numpy(), connectivity=2)
        regions = [region for region in measure.regionprops(ids) if region.area >= minimal_area]
        if not regions:
            continue
        masks = torch.stack([torch.from_numpy(ids == region.label) for region in regions])
        best = (own * masks).flatten(1).argmax(dim=1)
        points = torch.stack([best % own.shape[1], best // own.shape[1]], dim=1).float()
        corners = [(left, top, right - 1, bottom - 1) for top, left, bottom, right in (r.bbox for r in regions)]
        yield Prompts(index, points, torch.tensor(corners, dtype=torch.float32), masks)


def in_square(found: Prompts, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Points and boxes of a picture of (height, width) pixels, in pixels of SAM's square."""
    scale = side / max(size)
    height, width = (int(length * scale + 0.5) / length for length in size)
    factors = torch.tensor([width, height])
    return found.points * factors, found.boxes * factors.repeat(2)


def mask_prompt(scores: Tensor, size: tuple[int, int], side: int, threshold: float) -> Tensor:
    """A class's scores (h, w) as SAM's mask prompt, (side, side): 0.005 of them where they are above the threshold."""
    scale = side / max(size)
    inside = (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5)))
    small = resized(scores[None], inside)[0]
    padded = F.pad(small, (0, side - inside[1], 0, side - inside[0]))
    return torch.where(padded > threshold, MASK_FACTOR * padded, 0.0)


def best_mask(low: Tensor, picture: SamPicture, side: int, size: tuple[int, int]) -> Tensor:
    """Of low-resolution masks (n, h', w') the largest value at each pixel of the picture, (height, width)."""
    best = torch.full(size, -torch.inf, device=low.device)
    for part in row_blocks(len(low), MASKS_AT_ONCE):
        masks = resized(low[part], (side, side))[:, : picture.inside[0], : picture.inside[1]]
        masks = resized(resized(masks, picture.size), size)
        best = torch.maximum(best, masks.amax(dim=0))
    return best


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, h, w) to (n, height, width), bilinear; itself where it has the size."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
