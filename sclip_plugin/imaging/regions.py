"""Connected regions of a label map: found, and the small ones given to what surrounds them."""

from __future__ import annotations

import numpy as np

from ..importing import needs


def components(label_map: np.ndarray) -> np.ndarray:
    """(H, W): a number for each connected region; pixels of one label that share an edge are connected.

    Runs of a row are joined with those that they touch in the row below, by pointer jumping.

    Example:
        >>> import numpy as np
        >>> components(np.array([[0, 0, 1], [1, 0, 1]])).tolist()
        [[0, 0, 1], [2, 0, 1]]
    """
    starts = np.ones(label_map.shape, bool)
    starts[:, 1:] = label_map[:, 1:] != label_map[:, :-1]
    run = np.cumsum(starts.ravel()).reshape(label_map.shape) - 1
    touching = label_map[1:] == label_map[:-1]
    above, below = run[:-1][touching], run[1:][touching]
    lowest = np.arange(int(run[-1, -1]) + 1)
    while (apart := lowest[above] != lowest[below]).any():
        above, below = above[apart], below[apart]
        first, second = lowest[above], lowest[below]
        np.minimum.at(lowest, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(lowest, lowest[lowest]):
            lowest = lowest[lowest]
    return np.unique(lowest, return_inverse=True)[1].reshape(-1)[run]


def without_specks(label_map: np.ndarray, min_area: int) -> np.ndarray:
    """A label map whose small regions take the label that most of their border has.

    A small region that touches small ones alone waits until one of those has another label.

    Args:
        label_map: (H, W) integers; what has no label is a region like others.
        min_area: regions of fewer pixels go; pixels that share an edge are connected. Where all are smaller, none goes.

    Example:
        >>> import numpy as np
        >>> without_specks(np.array([[0, 0, 1], [0, 2, 1], [0, 0, 1]]), 2).tolist()
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    """
    region = components(label_map)
    small = np.bincount(region.ravel()) < min_area
    if small.all() or not small.any():
        return label_map
    label_of = np.zeros(len(small), label_map.dtype)
    label_of[region] = label_map
    first, second = (np.concatenate([a.ravel(), b.ravel()]) for a, b in
                     ((region[1:], region[:, 1:]), (region[:-1], region[:, :-1])))  # fmt: skip
    pairs = np.stack([np.concatenate([first, second]), np.concatenate([second, first])])
    pairs = pairs[:, pairs[0] != pairs[1]]
    while small.any():
        inside, outside = pairs[:, small[pairs[0]] & ~small[pairs[1]]]
        labels, votes = np.unique(label_of[outside], return_inverse=True)
        asked, place = np.unique(inside, return_inverse=True)
        counts = np.bincount(place * len(labels) + votes, minlength=len(asked) * len(labels))
        label_of[asked] = labels[counts.reshape(len(asked), -1).argmax(axis=1)]
        small[asked] = False
    return label_of[region]


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
