"""Map correction against a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sclip_plugin.errors import ShapeError
from sclip_plugin.masks import id_map, mask_vote, masks_of_ids


@given(st.integers(0, 2**32 - 1))
def test_an_id_map_its_masks_and_a_plain_loop_agree(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, (5, 7)).astype(np.int16)
    ids = rng.integers(-1, 6, (5, 7)) * 1000
    plain = labels.copy()
    for region in set(ids[ids > 0].tolist()):
        found, counts = np.unique(labels[ids == region], return_counts=True)
        plain[ids == region] = found[counts.argmax()]
    voted = mask_vote(labels, ids)
    assert voted.dtype == labels.dtype
    np.testing.assert_array_equal(voted, plain)
    np.testing.assert_array_equal(mask_vote(labels, masks_of_ids(ids)), plain)


def test_ties_take_the_smallest_label_and_a_larger_mask_hides_a_smaller_one():
    assert mask_vote(np.array([[3, 1]]), np.array([[1, 1]])).tolist() == [[1, 1]]
    masks = np.array([[[1, 1, 1, 0]], [[0, 0, 1, 1]]], bool)
    assert id_map(masks).tolist() == [[1, 1, 1, 2]]
    assert mask_vote(np.array([[0, 0, 2, 2]]), masks).tolist() == [[0, 0, 0, 2]]


def test_no_regions_change_nothing():
    labels = np.array([[0, 1], [-1, 1]])
    for masks in (np.zeros((2, 2), int), np.zeros((0, 2, 2), bool), np.full((2, 2), -3)):
        np.testing.assert_array_equal(mask_vote(labels, masks), labels)


@pytest.mark.parametrize("masks", [np.zeros((2, 3), int), np.zeros((2, 2)), np.full((1, 2, 2), 2), np.zeros(4, bool)])
def test_what_does_not_fit_is_said(masks):
    with pytest.raises(ShapeError, match=r"expected an id map \(2, 2\)"):
        mask_vote(np.zeros((2, 2), int), masks)
