"""The step ``pamr``: sharpens scores along the picture's colours (arXiv 2005.08104)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from ..defaults import PAMR_STEPS
from ..errors import SettingError
from ..fields import field_of
from ..imaging.refine import refine_pixels
from ..imaging.tiles import TiledMap
from .base import PixelScores, Place, Step
from .registry import register_step

PIXELS_AT_MOST = 2**22
VALUES_AT_MOST = 2**29


@register_step("pamr")
@dataclass(frozen=True, kw_only=True)
class PAMR(Step):
    """Pixel-adaptive refinement of the scores of names, at the size of the label map.

    It works at a smaller size if the picture has more than 4 million pixels or the scores take more than 2 GiB.

    Fields:
        steps: number of iterations; each averages the scores of a pixel with its neighbours'.
        dilations: distances of the neighbours in pixels, 1 to 16 values.
    """

    summary: ClassVar[str] = "sharpen scores along the picture's colours"
    source: ClassVar[str] = "PAMR, arXiv 2005.08104"
    on: ClassVar[Place] = "pixels"
    steps: int = field_of(PAMR_STEPS, "number of iterations that average scores over neighbours", low=1, high=1000)
    dilations: tuple[int, ...] = field_of((8, 16), "distances of the neighbours in pixels", low=1, high=4096)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.dilations) <= 16:
            raise SettingError(f"pamr got dilations={self.dilations!r}; expected 1 to 16 distances, such as (8, 16).")

    def __call__(self, given: PixelScores) -> TiledMap:
        height, width = given.size
        at_most = min(PIXELS_AT_MOST, VALUES_AT_MOST // len(given.words.vocabulary.names))
        shrink = max(1.0, (height * width / at_most) ** 0.5)
        size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        colours = given.shown.normalised().to(given.device)[None]
        colours = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)[0]
        # By way of the label map's own size: what is refined smaller is what would be refined there, resized.
        scores = given.at(given.size).resized(size).full()
        refined = refine_pixels(scores.flatten(0, 1), colours, self.steps, self.dilations, limits=given.limits)
        return TiledMap(refined.view_as(scores), limits=given.limits)
