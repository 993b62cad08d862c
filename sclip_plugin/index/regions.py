"""A picture's features reduced to what search needs: up to 32 region vectors and the image embedding, in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

REGIONS = 32
VECTOR_BYTES = 36_000
"""What a picture's regions may take; wider embeddings have fewer of them. A picture stays under 40 KB."""
VALUES_AT_ONCE = 2**17
"""Stored values that are widened together: they stay in a core's cache. (numpy, since torch would share them out among
threads that then wait for each other.)"""


@dataclass(frozen=True, eq=False)
class Reduced:
    """What an index keeps of a picture.

    Attributes:
        map: (h, w) uint8, of each patch its region's number.
        vectors: (R, D) int8; a region's unit vector is its row times its scale.
        scales: (R,) float32.
        image: (D,) int8, the image embedding of the whole picture.
        image_scale: its scale.
    """

    map: np.ndarray
    vectors: np.ndarray
    scales: np.ndarray
    image: np.ndarray
    image_scale: float


def reduced(features: Tensor, image: Tensor) -> Reduced:
    """Regions of a picture, each the mean of patches that are alike.

    Each region begins at the patch that is least like all those before, so that a thing of a single patch has one of
    its own as long as it stands out; then each patch goes to the one that it is most like.

    Args:
        features: (D, h, w), as `Encoded.features` gives them.
        image: (D,), the unit image embedding.

    Source: the farthest-point rule is Gonzalez' (1985), for k centres.

    Example:
        >>> import torch
        >>> features = torch.eye(3)[:, [0, 0, 1, 1, 1, 2]].view(3, 2, 3)
        >>> kept = reduced(features, torch.ones(3) / 3**0.5)
        >>> len(kept.vectors), (kept.map == kept.map[0, 2]).tolist()
        (3, [[False, False, True], [True, True, False]])
    """
    channels, height, width = features.shape
    patches = F.normalize(features.flatten(1).T.float(), dim=1)
    most = min(REGIONS, max(1, VECTOR_BYTES // channels), len(patches))
    mean = F.normalize(patches.mean(dim=0), dim=0)
    centres = patches[(patches @ mean).argmax()][None]
    nearest = patches @ centres[0]
    for _ in range(most - 1):
        farthest = patches[nearest.argmin()]  # nothing is asked of the device, which may be far ahead
        nearest = torch.maximum(nearest, patches @ farthest)
        centres = torch.cat([centres, farthest[None]])
    places = (patches @ centres.T).argmax(dim=1)
    sums = torch.zeros_like(centres).index_add_(0, places, patches)
    there = places.bincount(minlength=most) > 0
    vectors, scales = quantised(F.normalize(sums[there], dim=1))
    number = (there.cumsum(0) - 1)[places]
    whole, whole_scale = quantised(image[None].float())
    return Reduced(
        number.view(height, width).to(torch.uint8).cpu().numpy(), vectors, scales, whole[0], float(whole_scale[0])
    )


def quantised(vectors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows as int8 and their scales: the largest value of each becomes 127.

    Args:
        vectors: (n, D).

    Returns:
        (n, D) int8, (n,) float32.
    """
    scales = vectors.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (vectors / scales[:, None]).round().to(torch.int8).cpu().numpy(), scales.float().cpu().numpy()


def cosines(vectors: np.ndarray, scales: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Of stored vectors, (n, D) int8, with queries, (Q, D): (n, Q) float32."""
    step = max(1, VALUES_AT_ONCE // vectors.shape[1])
    out, widened = np.empty((len(vectors), len(queries)), np.float32), np.empty((step, vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step]
        np.copyto(widened[: len(rows)], rows)
        np.matmul(widened[: len(rows)], queries.T, out=out[start : start + len(rows)])
    out *= scales[:, None]
    return out
