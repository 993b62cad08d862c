"""Connected regions of a label map, against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest

from sclip_plugin.imaging.regions import components, without_specks


def same_partition(ours: np.ndarray, theirs: np.ndarray) -> bool:
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(ours)) == len(np.unique(theirs))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (40, 57), (300, 200)])
@pytest.mark.parametrize("labels", [1, 2, 3, 40])
def test_components_are_those_of_scikit_image(size, labels):
    measure = pytest.importorskip("skimage.measure")
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(-1, labels - 1, size)
        assert same_partition(components(noise), measure.label(noise, background=-2, connectivity=1))


def test_a_spiral_is_one_region():
    """The worst case: a region that winds through all rows."""
    spiral = np.zeros((101, 101), int)
    top, left, bottom, right = 0, 0, 100, 100
    while top <= bottom and left <= right:
        spiral[top, left : right + 1] = spiral[top : bottom + 1, right] = 1
        spiral[bottom, left + 2 : right + 1] = 1
        spiral[top + 2 : bottom + 1, left + 2] = 1
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    measure = pytest.importorskip("skimage.measure")
    assert same_partition(components(spiral), measure.label(spiral, background=-1, connectivity=1))


def test_no_pixel_changes_that_is_in_a_large_region():
    noise = np.random.default_rng(0).integers(0, 3, (60, 80))
    cleaned = without_specks(noise, 5)
    region = components(noise)
    large = (np.bincount(region.ravel()) >= 5)[region]
    np.testing.assert_array_equal(cleaned[large], noise[large])
    assert (np.bincount(components(cleaned).ravel()) >= 5).all()
