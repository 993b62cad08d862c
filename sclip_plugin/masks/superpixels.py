"""Superpixels by scikit-image: masks without any weights, for edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..fields import field_of
from ..importing import needs
from .base import MaskSource
from .registry import register_mask_source


@register_mask_source("slic")
@dataclass(frozen=True, kw_only=True)
class Slic(MaskSource):
    """SLIC: small regions of like colour, which cover the picture without gaps.

    Fields:
        segments: how many there are, about.
        compactness: higher makes them squarer, lower makes them follow colours.

    Source: Achanta et al., TPAMI 2012; scikit-image's implementation.
    """

    summary = "superpixels of like colour (scikit-image); needs no weights"
    kept = False
    segments: int = field_of(200, "superpixels in a picture, about", low=1, high=100_000)
    compactness: float = field_of(10.0, "higher: squarer; lower: along colours", above=0)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        slic = needs("skimage.segmentation", "masks").slic
        ids = slic(np.asarray(picture), n_segments=self.segments, compactness=self.compactness, start_label=1)
        return ids.astype(np.int32)
