"""What a mask source is, and the two forms of masks: an id map, and masks that may overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from ..errors import ShapeError
from ..grammar import Part


@dataclass(frozen=True, kw_only=True)
class MaskSource(Part):
    """Where the masks of a picture come from. Subclass it as a frozen dataclass whose fields are the options.

    Class attributes:
        name, summary: see `Part`.
        kept: whether what it gives is kept on disk, by picture and options.

    Example:
        >>> import numpy as np
        >>> from dataclasses import dataclass
        >>> from sclip_plugin.masks import MaskSource, register_mask_source
        >>> @register_mask_source("halves")
        ... @dataclass(frozen=True, kw_only=True)
        ... class Halves(MaskSource):
        ...     def __call__(self, picture):
        ...         ids = np.ones(picture.size[::-1], np.int32)
        ...         ids[:, picture.width // 2 :] = 2
        ...         return ids
    """

    kept: ClassVar[bool] = True

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Masks of an RGB picture.

        Returns:
            An id map (H, W) of integers, 1 and more for regions, 0 and less where there is none; or masks (R, H, W) of
            bool, which may overlap.
        """
        raise NotImplementedError


def checked(masks: np.ndarray, size: tuple[int, int], who: str = "masks") -> np.ndarray:
    """Masks in one of the two forms, as int32 or bool.

    Raises:
        ShapeError: of another shape than the picture's (height, width), or of another type.
    """
    masks = np.asarray(masks)
    if masks.ndim == 2 and masks.dtype.kind in "iu" and masks.shape == tuple(size):
        return masks.astype(np.int32)
    if masks.shape[-2:] == tuple(size) and (masks.dtype.kind == "b" or _holds_two_values(masks)):
        masks = masks.astype(bool)
        return masks if masks.ndim == 3 else masks[None]
    height, width = size
    raise ShapeError(
        f"{who} have shape {masks.shape} and hold {masks.dtype}; expected an id map ({height}, {width}) of integers, "
        f"or masks (R, {height}, {width}) of True and False, for this picture of {width} x {height} pixels."
    )


def _holds_two_values(masks: np.ndarray) -> bool:
    return masks.ndim == 3 and masks.dtype.kind in "uif" and bool(np.isin(masks, (0, 1)).all())


def id_map(masks: np.ndarray) -> np.ndarray:
    """One id for each pixel, (H, W) int32: of masks (R, H, W) the number of the mask from 1 on, 0 where there is none.

    Masks are painted in ascending order of area, as CorrCLIP paints SAM's: **a larger mask hides smaller ones inside
    it**. An id map is returned as it is.

    Source: CorrCLIP, arXiv 2411.10086.

    >>> import numpy as np
    >>> id_map(np.array([[[True, True, True]], [[False, True, False]]]))
    array([[1, 1, 1]], dtype=int32)
    """
    if masks.ndim == 2:
        return masks
    ids = np.zeros(masks.shape[1:], np.int32)
    areas = masks.sum(axis=(1, 2))
    for index in np.argsort(areas, kind="stable"):
        ids[masks[index]] = index + 1
    return ids


def masks_of_ids(masks: np.ndarray) -> np.ndarray:
    """Masks (R, H, W) of bool: of an id map those of its regions, in order of their ids; others are returned as given.

    >>> import numpy as np
    >>> masks_of_ids(np.array([[0, 7], [3, 3]])).astype(int).tolist()
    [[[0, 0], [1, 1]], [[0, 1], [0, 0]]]
    """
    if masks.ndim == 3:
        return masks
    ids = np.unique(masks)
    return masks == ids[ids > 0][:, None, None]
