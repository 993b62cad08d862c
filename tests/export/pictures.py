"""Label maps that make formats sweat, as results."""

import numpy as np
from PIL import Image
from scipy import ndimage

import sclip_plugin as sp

LABELS = ["cat", "sofa / couch", 'a "quoted" <name>', "木", "grass"]


def blobs(seed: int = 0, size: tuple[int, int] = (150, 200)) -> np.ndarray:
    """Smooth regions of five classes, some of them unlabelled."""
    noise = np.random.default_rng(seed).standard_normal((len(LABELS), *size))
    fields = np.stack([ndimage.gaussian_filter(field, 9) for field in noise])
    label_map = fields.argmax(axis=0)
    label_map[fields.max(axis=0) < np.quantile(fields.max(axis=0), 0.1)] = -1
    return label_map


def rings() -> np.ndarray:
    """Regions in regions: a ring with an island, two holes in one region, one that touches a corner."""
    label_map = np.zeros((90, 120), int)
    label_map[10:70, 10:70] = 1
    label_map[20:60, 20:60] = 2
    label_map[35:45, 35:45] = 1
    label_map[20:40, 85:95] = label_map[50:70, 85:95] = 3
    label_map[70:90, 70:80] = -1
    return label_map


def specks() -> np.ndarray:
    """Single pixels, lines of one pixel, steps."""
    label_map = np.full((40, 60), -1)
    label_map[5, 5] = label_map[0, 0] = label_map[39, 59] = 0
    label_map[10, 10:50] = 1
    label_map[15:35, 20] = 2
    label_map[np.arange(20, 35), np.arange(30, 45)] = 3
    label_map[12:14, 2:4] = 4
    return label_map


def result(label_map: np.ndarray, *, scores: bool = True) -> sp.Segmentation:
    generator = np.random.default_rng(1)
    picture = Image.fromarray(generator.integers(0, 256, (*label_map.shape, 3), dtype=np.uint8))
    values = generator.random((len(LABELS), *label_map.shape)).astype(np.float32) if scores else None
    return sp.Segmentation(LABELS, label_map, picture, values, {"model": "none"})


MAPS = {"blobs": blobs(), "rings": rings(), "specks": specks(), "one class": np.zeros((30, 20), int)}


def masks(label_map: np.ndarray) -> np.ndarray:
    """(classes, H, W) bool."""
    return np.stack([label_map == index for index in range(len(LABELS))])


def ious(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """IoU of every class that occurs in either."""
    union = (got | wanted).sum(axis=(1, 2))
    return ((got & wanted).sum(axis=(1, 2)) / np.maximum(union, 1))[union > 0]
