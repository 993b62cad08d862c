"""The rules on label maps, by hand: at equality, after each other, and what they can't be asked of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sclip_plugin.errors import SettingError
from sclip_plugin.imaging.tiles import TiledMap
from sclip_plugin.settings import Settings
from sclip_plugin.steps import Decided, GivenScores, NameScores, Shown, make_step
from sclip_plugin.text.labels import parse_labels

LABELS = [["sky", "wall"], "cat", "dog"]


def decided(classes, kind="probability", regions=None) -> Decided:
    """A row of pixels, each of one class by scores (H, W, 4) of names."""
    names = {0: 0, 1: 2, 2: 3}  # a name of each class
    values = torch.full((1, len(classes), 4), 0.1)
    for column, chosen in enumerate(classes):
        values[0, column, names[chosen]] = 0.5
    shown = Shown(Image.new("RGB", (len(classes), 1)), None, torch.zeros(3), torch.ones(3), regions)
    scores = NameScores(TiledMap(values), parse_labels(LABELS), kind, 40.0)
    return Decided(labels=np.array([classes], np.int16), scores=scores, vocabulary=parse_labels(LABELS), shown=shown)


def labels(text: str, given: Decided) -> list[int]:
    return make_step(text)(given).labels[0].tolist()


class TestBenchmark:
    def test_a_class_that_covers_just_the_fraction_is_dropped(self):
        """Of ten pixels of the foreground two are dog: at most 0.2 of it."""
        given = decided([0] * 5 + [1] * 8 + [2] * 2)
        assert labels("benchmark(area=0.2)", given) == [0] * 5 + [1] * 8 + [0] * 2  # the first of equal others
        assert labels("benchmark(area=0.19)", given) == given.labels[0].tolist()
        assert not make_step("benchmark(area=0.2)")(given).full_scores[2].any()

    def test_background_is_not_counted_and_never_dropped(self):
        given = decided([0] + [1] * 9 + [2] * 90)
        assert labels("benchmark(area=0.05)", given) == given.labels[0].tolist()
        only = decided([0, 0])
        assert labels("benchmark(area=0.5)", only) == [0, 0]

    def test_pixels_as_likely_as_asked_stay(self):
        given = decided([1, 2])
        assert labels("benchmark(prob=0.5)", given) == [1, 2]
        assert labels("benchmark(prob=0.51)", given) == [0, 0]

    def test_nothing_asked_changes_nothing(self):
        given = decided([1, 2])
        assert make_step("benchmark")(given) is given


class TestThreshold:
    def test_pixels_as_likely_as_asked_stay(self):
        given = decided([1, 2])
        assert labels("threshold(0.5)", given) == [1, 2]
        assert labels("threshold(0.51)", given) == [-1, -1]
        assert given.labels.tolist() == [[1, 2]], "what was given stays as it was"

    def test_a_cosine_is_that_of_the_best_name_before_the_softmax(self):
        given = decided([1, 2], "cosine")
        assert labels("threshold(cosine=0.5)", given) == [1, 2]
        assert labels("threshold(cosine=0.51)", given) == [-1, -1]
        assert labels("threshold(0.51)", given) == [1, 2]  # the softmax at scale 40 is near 1

    @pytest.mark.parametrize("kind", ["logit", "probability"])
    def test_of_what_is_no_cosine_any_more_none_can_be_asked(self, kind):
        with pytest.raises(SettingError, match=kind):
            labels("threshold(cosine=0.5)", decided([1, 2], kind))

    def test_after_a_step_that_gives_scores_of_classes_alone(self):
        given = decided([1, 2], "cosine").changed(scores=GivenScores(np.full((3, 1, 2), 0.3, np.float32)))
        assert labels("threshold(0.31)", given) == [-1, -1] and labels("threshold(0.3)", given) == [1, 2]
        for text in ("threshold(cosine=0.5)", "normalize", "benchmark(area=0.9)"):
            with pytest.raises(SettingError, match="before"):
                labels(text, given)


class TestKinds:
    def test_probabilities_are_taken_as_they_are_and_others_through_the_softmax(self):
        of_names = decided([1]).scores.maps.full()[0, 0]
        assert decided([1]).full_scores[:, 0, 0].tolist() == pytest.approx([0.1, 0.5, 0.1])
        soft = (40 * of_names).softmax(dim=0)
        for kind in ("cosine", "logit"):
            scores = decided([1], kind).full_scores[:, 0, 0]
            assert scores.tolist() == pytest.approx([float(soft[:2].max()), float(soft[2]), float(soft[3])])

    @pytest.mark.parametrize("kind", ["cosine", "logit", "probability"])
    def test_the_best_of_each_pixel_is_the_best_of_all_scores(self, kind):
        given = decided([0, 1, 2, 2], kind)
        ((_, best, index),) = given.scores.best((1, 4))
        assert torch.equal(index, given.full_scores.argmax(dim=0))
        torch.testing.assert_close(best, given.full_scores.amax(dim=0))


def test_normalize_divides_by_the_sum_and_leaves_labels():
    after = make_step("normalize")(decided([1, 2]))
    assert after.full_scores[:, 0, 0].tolist() == pytest.approx([0.1 / 0.7, 0.5 / 0.7, 0.1 / 0.7])
    assert after.labels.tolist() == [[1, 2]]


def test_a_vote_is_of_the_regions_of_the_settings_masks():
    given = decided([1, 1, 2, 2, 2, 0], regions=lambda: np.array([[5, 5, 5, 9, 9, 0]], np.int32))
    assert labels("vote", given) == [1, 1, 1, 2, 2, 0]
    with pytest.raises(SettingError, match="masks="):
        labels("vote", decided([1]))
    with pytest.raises(SettingError, match="masks="):
        Settings(steps="vote")


def test_a_threshold_before_a_vote_and_behind_it():
    """The order of the list is the order that they run in."""
    given = decided([1, 1, 2], regions=lambda: np.ones((1, 3), np.int32))
    both = make_step("vote")(make_step("threshold(0.6)")(given)), make_step("threshold(0.6)")(make_step("vote")(given))
    assert [each.labels.tolist() for each in both] == [[[-1, -1, -1]]] * 2
    given.scores.maps.values[0, 2, 3] = 0.7
    both = make_step("vote")(make_step("threshold(0.6)")(given)), make_step("threshold(0.6)")(make_step("vote")(given))
    assert [each.labels.tolist() for each in both] == [[[-1, -1, -1]], [[-1, -1, 1]]]
