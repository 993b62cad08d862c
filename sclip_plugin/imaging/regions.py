"""Connected regions of a label map, cleaned."""

from __future__ import annotations

import numpy as np

from ..importing import needs


def without_specks(label_map: np.ndarray, min_area: int) -> np.ndarray:
    """A label map whose small regions take the label of the nearest pixel of a larger one.

    Args:
        label_map: (H, W) integers; what has no label is a region like others.
        min_area: regions of fewer pixels go; pixels that share an edge are connected. Where all are smaller, none goes.

    Raises:
        MissingPackageError: without the extra ``export``.

    Example:
        >>> import numpy as np
        >>> without_specks(np.array([[0, 0, 1], [0, 2, 1], [0, 0, 1]]), 2).tolist()
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    """
    if min_area <= 1:
        return label_map
    regions = needs("skimage.measure", "export").label(label_map, background=label_map.min() - 1, connectivity=1)
    small = (np.bincount(regions.ravel()) < min_area)[regions]
    if small.all() or not small.any():
        return label_map
    nearest = needs("scipy.ndimage", "export").distance_transform_edt(
        small, return_distances=False, return_indices=True
    )
    return label_map[tuple(nearest)]


def region_at(label_map: np.ndarray, row: int, column: int) -> np.ndarray:
    """(H, W) bool: the pixels of one label that hang together with this one by their edges.

    Raises:
        MissingPackageError: without the extra ``export``.

    Example:
        >>> import numpy as np
        >>> region_at(np.array([[0, 1, 0], [0, 0, 1]]), 0, 0).tolist()
        [[True, False, False], [True, True, False]]
    """
    return needs("skimage.segmentation", "export").flood(label_map, (row, column), connectivity=1)
