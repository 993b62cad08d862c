"""Map correction: each region takes the label that most of its pixels have."""

from __future__ import annotations

import numpy as np

from .base import checked, id_map


def mask_vote(label_map: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Give every region of a picture the most frequent label of its pixels; of equals the smallest.

    Args:
        label_map: (H, W) integers, -1 or more.
        masks: an id map (H, W), or masks (R, H, W), of which a larger one hides those inside it; see `id_map`.

    Returns:
        A new label map of the same type; pixels in no region keep their label.

    Raises:
        ShapeError: masks of another size or type.

    Source: CorrCLIP, arXiv 2411.10086, map correction; worth +1.8 to +1.9 mIoU in two papers, after any method.

    Example:
        >>> import numpy as np
        >>> mask_vote(np.array([[0, 1, 1], [2, 2, 0]]), np.array([[1, 1, 1], [0, 0, 2]]))
        array([[1, 1, 1],
               [2, 2, 0]])
    """
    label_map = np.asarray(label_map)
    ids = id_map(checked(masks, label_map.shape))
    inside = ids > 0
    _, region = np.unique(ids[inside], return_inverse=True)
    lowest = int(label_map.min(initial=0))
    labels = label_map[inside].astype(np.int64) - lowest
    classes = int(labels.max(initial=0)) + 1
    regions = int(region.max(initial=-1)) + 1
    counts = np.bincount(region * classes + labels, minlength=regions * classes).reshape(regions, classes)
    voted = label_map.copy()
    voted[inside] = (counts.argmax(axis=1) + lowest)[region]
    return voted
