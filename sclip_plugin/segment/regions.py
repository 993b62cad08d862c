"""The regions of a picture by the settings' masks, computed once, at their first use."""

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
    """Function that gives the id map (H, W) int32 of masks at ``size``; None without masks."""
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
    """Function that gives a picture's masks: an id map, or masks (R, H, W) that may overlap; None without masks.

    If the picture is unknown, the source sees its 8-bit pixels, at their own size.
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
