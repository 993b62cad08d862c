"""The regions of a picture as its settings ask for them: computed when they are first needed, once."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import SettingError
from ..masks import find_masks, id_map, masks_of
from ..settings import Settings

Regions = Callable[[], np.ndarray]


def regions_of(masks: Callable[[], np.ndarray] | None, size: tuple[int, int]) -> Callable[[], np.ndarray] | None:
    """What gives the id map (H, W) int32 of masks at ``size``; None where there are none."""
    if masks is None:
        return None

    @functools.cache
    def regions() -> np.ndarray:
        ids = id_map(masks())
        if ids.shape != tuple(size):
            ids = np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
        return ids

    return regions


def masks_in(picture: Image.Image | None, pixels: Tensor | None, settings: Settings) -> Callable[[], np.ndarray] | None:
    """What gives a picture's masks as their source does: an id map, or masks (R, H, W) that may overlap; None where the
    settings have none.

    Where the picture itself is not known, its 8-bit pixels are looked at, at their own size.
    """
    if settings.masks is None:
        return None
    source = find_masks(settings.masks)

    @functools.cache
    def masks() -> np.ndarray:
        seen = picture
        if seen is None:
            if pixels is None or pixels.is_floating_point():
                raise SettingError(
                    "masks are of a picture, and of this one only normalised pixels or features are known; give the "
                    "picture itself, or Encoded.load(path, segmenter, picture=...)."
                )
            seen = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
        return masks_of(source, seen)

    return masks


def warn_of_unused_masks(settings: Settings) -> None:
    """Say that masks change nothing, where neither the method nor a step looks at regions."""
    if settings.masks is not None and not settings.sees_regions():
        warnings.warn(
            f"masks={settings.masks!r} change nothing: {settings.method_name} and the steps look at no regions. Add "
            "the step 'vote', or choose a method that looks at regions, such as 'corrclip'.",
            stacklevel=3,
        )
