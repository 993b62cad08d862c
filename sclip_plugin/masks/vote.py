"""Map correction: each region takes the label most of its pixels have."""

import numpy as np

from ..errors import ShapeError


def mask_vote(labels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Give every region of a picture the most frequent label of its pixels.

    Parameters
    ----------
    labels
        Label map, (H, W), integers of at least 0.
    regions
        Id map, (H, W), integers: 0, 1, … for regions, negative where there is none; or overlapping masks,
        (R, H, W), bool. Every region counts the labels as they were given. Of labels that are equally frequent
        the smallest wins, and where masks overlap the later one does.

    Returns
    -------
    A new label map, (H, W), of the given type; pixels in no region keep their label.

    Raises
    ------
    ShapeError
        If a shape or a type is another one.

    Source: CorrCLIP (arXiv 2411.10086), map correction.

    >>> mask_vote(np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 0, 0], [-1, -1, 1]]))
    array([[1, 1, 1],
           [2, 2, 0]])
    """
    labels, regions = np.asarray(labels), np.asarray(regions)
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ShapeError(
            f"labels are {labels.dtype} of shape {labels.shape}; expected an (H, W) map of integers of at least 0. "
            "Pass the labels of one picture."
        )
    if regions.shape[-2:] != labels.shape or regions.ndim not in (2, 3):
        raise ShapeError(
            f"regions have shape {regions.shape}, the label map {labels.shape}; expected the same (H, W), or masks "
            "(R, H, W). Resize the regions to the label map with nearest neighbours."
        )
    if regions.dtype.kind != ("i" if regions.ndim == 2 else "b") and not (
        regions.ndim == 2 and regions.dtype.kind == "u"
    ):
        raise ShapeError(
            f"regions of shape {regions.shape} are {regions.dtype}; expected integers for an id map (H, W), bool for "
            "masks (R, H, W). Convert them with astype."
        )
    voted = labels.copy()
    if regions.ndim == 3:
        for mask in regions:
            if mask.any():
                voted[mask] = np.bincount(labels[mask].astype(np.int64)).argmax()
        return voted
    inside = regions >= 0
    if not inside.any():
        return voted
    if int(regions.max()) >= regions.size:
        raise ShapeError(
            f"the largest id is {int(regions.max())} in a map of {regions.size} pixels; expected 0 … regions - 1. "
            "Renumber the ids with np.unique(ids, return_inverse=True)."
        )
    ids, given = regions[inside].astype(np.int64), labels[inside].astype(np.int64)
    classes = int(given.max()) + 1
    counts = np.bincount(ids * classes + given, minlength=(int(ids.max()) + 1) * classes).reshape(-1, classes)
    voted[inside] = counts.argmax(axis=1)[ids]
    return voted
