"""Words for given masks, by the mean dense feature of each mask and CLIP's own embedding of a view of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ..device import budget, without_autocast
from ..errors import SettingError
from ..imaging.pictures import to_tensor
from ..imaging.resampling import normalise
from ..masks import MaskSource, find_masks, masks_of, masks_of_ids
from ..masks.base import checked
from ..settings import Settings
from ..text.labels import Labels

if TYPE_CHECKING:
    from .encoded import Encoded

View = Literal["none", "crop", "cut", "blur"]
MARGIN = 0.1
"""Margin of a crop on each side, as a fraction of the box's longer side."""


@dataclass(frozen=True, eq=False)
class Classified:
    """Labels of masks.

    Attributes:
        labels: the classes, K.
        masks: (R, H, W) of bool.
        scores: (R, K) float32: the softmax over all names, the maximum per class.
        boxes: (R, 4) of left, top, right, bottom in pixels; right and bottom are exclusive.
    """

    labels: tuple[str, ...]
    masks: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def __repr__(self) -> str:
        return f"<{len(self.masks)} masks: {', '.join(self.labels_of_masks[:5])}{', …' if len(self.masks) > 5 else ''}>"

    @property
    def labels_of_masks(self) -> tuple[str, ...]:
        """The best label of each mask."""
        return tuple(self.labels[i] for i in self.scores.argmax(axis=1))

    def label_map(self) -> np.ndarray:
        """(H, W) int16: the label of each pixel's mask, -1: no mask. A smaller mask lies on top of a larger one."""
        out = np.full(self.masks.shape[1:], -1, np.int16)
        best = self.scores.argmax(axis=1)
        for index in np.argsort(-self.masks.sum(axis=(1, 2)), kind="stable"):
            out[self.masks[index]] = best[index]
        return out

    def to_dict(self) -> list[dict[str, Any]]:
        """For each mask its label, score, box, and area as a share of the picture: as JSON holds it."""
        best = self.scores.argmax(axis=1)
        return [
            {
                "mask": index,
                "label": self.labels[label],
                "score": float(self.scores[index, label]),
                "box": [int(side) for side in self.boxes[index]],
                "area": float(self.masks[index].mean()),
            }
            for index, label in enumerate(best)
        ]


def pooled(features: Tensor, masks: np.ndarray) -> Tensor:
    """The mean feature in each mask: of each cell the share that the mask covers is its weight.

    Args:
        features: (D, h, w).
        masks: (R, H, W) of bool.

    Returns:
        (R, D) of unit length; a mask that covers nothing has zeros.
    """
    weights = torch.from_numpy(masks).to(features.device)
    shares = torch.cat([F.interpolate(mask[None, None].float(), features.shape[1:], mode="area") for mask in weights])
    return F.normalize(shares.flatten(1) @ features.flatten(1).T, dim=1)


@torch.inference_mode()
def classify(
    encoded: Encoded, masks: Any, labels: Labels | None, view: str, weight: float, settings: Settings
) -> Classified:
    """See `Encoded.classify`."""
    if view not in get_args(View) or not 0 <= weight <= 1:
        raise SettingError(f"view={view!r}, weight={weight!r}; expected one of {get_args(View)}, and 0 to 1.")
    if isinstance(masks, (str, MaskSource)):
        if encoded.picture is None:
            raise SettingError(f"masks={masks!r} looks at the picture, which is not known; give masks in hand.")
        masks = masks_of(find_masks(masks), encoded.picture)
    masks = masks_of_ids(checked(masks, encoded.size))
    segmenter = encoded.segmenter
    with without_autocast(segmenter.device):
        seen = pooled(encoded.features(), masks) if len(masks) else None
    vocabulary, text = segmenter.words_of_masks(encoded, labels, settings, seen, masks)
    boxes = np.array([_box(mask) for mask in masks], np.int64).reshape(-1, 4)
    scores = np.zeros((len(masks), len(vocabulary.labels)), np.float32)
    if seen is not None:
        with without_autocast(segmenter.device):
            cosines = seen @ text.to(segmenter.device).T
            if view != "none":
                viewed = _embedded(encoded, masks, boxes, view)
                cosines = (1 - weight) * cosines + weight * (viewed @ text.to(segmenter.device).T)
            cosines = cosines + cosines.new_tensor(vocabulary.constants_of_names())
            of_names = (cosines * settings.logit_scale).softmax(dim=1)
        index = torch.tensor(vocabulary.class_of_name, device=of_names.device).expand_as(of_names)
        empty = of_names.new_zeros(len(masks), len(vocabulary.labels))
        scores = empty.scatter_reduce(1, index, of_names, "amax", include_self=False).cpu().numpy()
    return Classified(tuple(vocabulary.labels), masks, scores, boxes)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


def _embedded(encoded: Encoded, masks: np.ndarray, boxes: np.ndarray, view: str) -> Tensor:
    """(R, D): unit image embeddings of a view of each mask."""
    segmenter = encoded.segmenter
    tower, device = segmenter.tower, segmenter.device
    if encoded.picture is None:
        raise SettingError(
            f"view={view!r} looks at the picture, which is not known; expected Encoded.load(…, picture=…)."
        )
    native = tower.native_grid[0] * tower.patch_size[0], tower.native_grid[1] * tower.patch_size[1]
    at_once = max(1, budget(device).tokens // (tower.native_grid[0] * tower.native_grid[1]))
    encoder = segmenter.encoder
    views = _views(encoded.picture, masks, boxes, view, encoder.mean, native)
    batches = [torch.stack(list(views_of)) for views_of in _batched(views, at_once)]
    embedded = [encoder.embed_pixels(normalise(b.to(device), encoder.mean, encoder.std)) for b in batches]
    return torch.cat(embedded)


def _batched(views: Iterator[Tensor], count: int) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    for view in views:
        batch.append(view)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def _views(
    picture: Image.Image, masks: np.ndarray, boxes: np.ndarray, view: str, mean: Tensor, size: tuple[int, int]
) -> Iterator[Tensor]:
    """What is shown of each mask, (3, H, W) uint8 of the model's native size."""
    around = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 50)) if view == "blur" else None
    if view == "cut":
        around = Image.new("RGB", picture.size, tuple(int(round(255 * float(value))) for value in mean))
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        shown = picture
        if around is not None:
            shown = Image.composite(picture, around, Image.fromarray(mask))
        if view != "blur" and right > left:
            margin = round(MARGIN * max(right - left, bottom - top))
            shown = shown.crop(
                (
                    max(0, left - margin),
                    max(0, top - margin),
                    min(picture.width, right + margin),
                    min(picture.height, bottom + margin),
                )
            )
        yield to_tensor(shown.resize(size[::-1], Image.Resampling.BICUBIC))
