import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sclip_plugin.errors import ShapeError
from sclip_plugin.masks import mask_vote


@given(st.integers(0, 2**32 - 1))
def test_an_id_map_a_stack_of_masks_and_a_plain_loop_agree(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (5, 7)).astype(np.uint8)
    ids = rng.integers(-1, 6, (5, 7))
    plain = labels.copy()
    for region in range(6):
        found, counts = np.unique(labels[ids == region], return_counts=True)
        if found.size:
            plain[ids == region] = found[counts.argmax()]
    from_ids = mask_vote(labels, ids)
    assert from_ids.dtype == labels.dtype
    assert np.array_equal(from_ids, plain)
    assert np.array_equal(mask_vote(labels, np.stack([ids == region for region in range(6)])), plain)


def test_ties_take_the_smallest_label_and_later_masks_lie_on_top():
    assert mask_vote(np.array([[3, 1]]), np.array([[0, 0]])).tolist() == [[1, 1]]
    masks = np.array([[[1, 1, 1, 0]], [[0, 0, 1, 1]]], bool)
    assert mask_vote(np.array([[0, 0, 2, 2]]), masks).tolist() == [[0, 0, 2, 2]]
    assert mask_vote(np.array([[0, 0, 2, 2]]), masks[::-1]).tolist() == [[0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("labels", "regions", "said"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), int), "integers of at least 0"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "integers of at least 0"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "Resize the regions"),
        (np.zeros((2, 2), int), np.zeros((1, 2, 2), int), "astype"),
        (np.zeros((2, 2), int), np.zeros((2, 2), bool), "astype"),
        (np.zeros((2, 2), int), np.full((2, 2), 10000), "Renumber"),
    ],
)
def test_what_does_not_fit_is_said(labels, regions, said):
    with pytest.raises(ShapeError, match=said):
        mask_vote(labels, regions)
