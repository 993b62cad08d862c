"""Thresholds, the benchmarks' rules, closing and votes, on scores that are written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sclip_plugin.errors import SettingError
from sclip_plugin.imaging.tiles import TiledMap
from sclip_plugin.steps import Decided, GivenScores, NameScores, Shown, make_step
from sclip_plugin.text.labels import parse_labels

MEAN = STD = torch.ones(3)


def decided(maps, labels=("background", "cat", "dog"), kind="probability", regions=None, scale=1.0):
    """What steps are given: the best class of each pixel of maps (H, W, K)."""
    values, vocabulary = torch.tensor(maps, dtype=torch.float32), parse_labels(list(labels))
    scores = NameScores(TiledMap(values), vocabulary, kind, scale)
    best = values.argmax(dim=2).numpy()
    classes = np.array(vocabulary.class_of_name)[best].astype(np.int16)
    shown = Shown(None, None, MEAN, STD, None if regions is None else lambda: np.array(regions))
    return Decided(labels=classes, scores=scores, vocabulary=vocabulary, shown=shown)


def one_hot(rows, sure=0.9):
    """Maps (H, W, 3) whose best class is as written, with a score of ``sure``."""
    return np.where(np.eye(3)[np.array(rows)] > 0, sure, (1 - sure) / 2)


def test_unlikely_pixels_become_class_0():
    given = decided([[[0.1, 0.5, 0.4], [0.2, 0.3, 0.5]]])
    assert make_step("benchmark(prob=0.5)")(given).labels.tolist() == [[1, 2]]  # a score of exactly 0.5 stays
    assert make_step("benchmark(prob=0.500001)")(given).labels.tolist() == [[0, 0]]
    assert make_step("benchmark")(given) is given


@pytest.mark.parametrize(("area", "dropped"), [(0.249, set()), (0.25, {2}), (0.74, {2}), (0.75, {1, 2})])
def test_classes_that_cover_at_most_a_share_of_the_foreground_are_dropped(area, dropped):
    """Of the four pixels that are not class 0 one is class 2: a share of a quarter, and at equality it goes."""
    given = decided(one_hot([[0, 0, 1], [1, 1, 2]]))
    after = make_step(f"benchmark(area={area})")(given)
    assert set(np.unique(given.labels)) - set(np.unique(after.labels)) == dropped
    assert after.scores.dropped == dropped
    scores = after.scores.full(after.labels.shape)
    assert all((scores[index] == 0).all() for index in dropped)


def test_a_dropped_class_leaves_its_pixels_to_the_next_best():
    maps = one_hot([[1, 1, 1, 2]])
    maps[0, 3] = (0.1, 0.3, 0.6)
    after = make_step("benchmark(area=0.3)")(decided(maps))
    assert after.labels.tolist() == [[1, 1, 1, 1]]
    # With a threshold on top the pixel is judged by what is left to it.
    assert make_step("benchmark(prob=0.5, area=0.3)")(decided(maps)).labels.tolist() == [[1, 1, 1, 0]]


def test_a_picture_of_background_alone_drops_nothing():
    given = decided(one_hot([[0, 0]]))
    assert make_step("benchmark(area=0.1)")(given).labels.tolist() == [[0, 0]]


def test_a_threshold_on_probability_leaves_pixels_unlabelled():
    given = decided([[[0.1, 0.5, 0.4], [0.2, 0.3, 0.5]]])
    assert make_step("threshold(0.5)")(given).labels.tolist() == [[1, 2]]
    assert make_step("threshold(0.51)")(given).labels.tolist() == [[-1, -1]]


def test_a_threshold_on_probability_reads_the_softmax_of_cosines():
    given = decided([[[0.1, 0.2, 0.1], [0.1, 0.3, 0.1]]], kind="cosine", scale=10.0)
    sure = torch.tensor([[0.1, 0.2, 0.1], [0.1, 0.3, 0.1]]).mul(10).softmax(dim=1).amax(dim=1)
    between = float(sure.mean())
    assert make_step(f"threshold({between})")(given).labels.tolist() == [[-1, 1]]


def test_a_threshold_on_the_largest_cosine():
    given = decided([[[0.1, 0.2, 0.1], [0.1, 0.3, 0.1]]], kind="cosine")
    assert make_step("threshold(cosine=0.25)")(given).labels.tolist() == [[-1, 1]]
    assert given.labels.tolist() == [[1, 1]], "what was given stays"


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_a_threshold_on_cosines_is_refused_where_there_are_none(kind):
    with pytest.raises(SettingError):
        make_step("threshold(cosine=0.25)")(decided([[[0.1, 0.2, 0.1]]], kind=kind))


def test_steps_on_names_refuse_scores_of_classes_alone():
    given = decided(one_hot([[1, 2]])).changed(scores=GivenScores(np.ones((3, 1, 2), np.float32)))
    for text in ("benchmark(area=0.5)", "threshold(cosine=0.2)", "normalize"):
        with pytest.raises(SettingError):
            make_step(text)(given)
    assert make_step("threshold(0.5)")(given).labels.tolist() == [[1, 2]]


def test_normalize_divides_scores_by_their_sum_and_changes_no_label():
    given = decided([[[0.1, 0.2, 0.1]]])
    after = make_step("normalize")(given)
    assert after.labels.tolist() == given.labels.tolist()
    np.testing.assert_allclose(after.scores.full((1, 1))[:, 0, 0], [0.25, 0.5, 0.25], rtol=1e-6)


def test_closing_fills_what_is_smaller_than_its_square():
    labels = np.ones((7, 7), int)
    labels[3, 3] = 0
    given = decided(one_hot(labels))
    assert (make_step("closing(3)")(given).labels == 1).all()
    assert make_step("closing(1)")(given).labels.tolist() == labels.tolist()
    with pytest.raises(SettingError):
        make_step("closing(4)")


def test_every_region_takes_its_most_frequent_label():
    given = decided(one_hot([[1, 1, 2], [2, 2, 0]]), regions=[[1, 1, 1], [0, 2, 2]])
    assert make_step("vote")(given).labels.tolist() == [[1, 1, 1], [2, 0, 0]]  # of equals the smallest
    with pytest.raises(SettingError):
        make_step("vote")(decided(one_hot([[1]])))


def test_small_regions_take_the_label_around_them():
    labels = np.ones((10, 10), int)
    labels[:, 7:] = 2
    labels[4, 4] = 0  # in the middle of class 1
    labels[2:4, 6] = 0  # two pixels on the border, three sides of each in class 1 and one in class 2
    labels[8, 8] = labels[9, 9] = 1  # islands of class 1 that touch by a corner alone
    given = decided(one_hot(labels))
    cleaned = make_step("specks(0.03)")(given).labels
    expected = np.ones((10, 10), int)
    expected[:, 7:] = 2
    np.testing.assert_array_equal(cleaned, expected)
    assert make_step("specks(0)")(given).labels.tolist() == labels.tolist()
    # A region of exactly the share stays.
    np.testing.assert_array_equal(make_step("specks(0.02)")(given).labels[2:4, 6], 0)


def test_small_regions_beside_small_ones_alone_are_filled_from_outside():
    labels = np.zeros((7, 7), int)
    labels[2:5, 2:5] = (
        np.arange(9).reshape(3, 3) % 2 + 1
    )  # nine regions of one pixel, the middle one touches small ones
    given = decided(one_hot(labels))
    assert (make_step("specks(0.1)")(given).labels == 0).all()
    assert make_step("specks(1)")(given).labels.tolist() == labels.tolist(), "where all are small none goes"
