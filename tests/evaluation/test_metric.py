"""The metric equals independent implementations on random maps, and is fast."""

import time

import numpy as np
import pytest

from sclip_plugin.evaluation.metric import IoUTotals, LabelRangeError, count_picture


def iou_by_scikit_learn(predictions, targets, num_classes, ignore_index):
    """Per-class IoU from scikit-learn's confusion matrix over all pixels of all pictures."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the independent implementation")
    prediction = np.concatenate([p.ravel() for p in predictions]).astype(int)
    target = np.concatenate([t.ravel() for t in targets]).astype(int)
    kept = target != ignore_index
    # -1, "no class", takes part as one more label whose own IoU is not asked for.
    matrix = sklearn_metrics.confusion_matrix(target[kept], prediction[kept], labels=[*range(num_classes), -1])
    intersection = np.diag(matrix)[:-1]
    union = matrix.sum(0)[:-1] + matrix.sum(1)[:-1] - intersection
    with np.errstate(invalid="ignore"):
        return intersection / union, intersection.sum() / max(kept.sum(), 1)


def random_maps(rng, num_classes, ignore_index, dtype, pictures=4, ignored=0.2, unlabelled=0.0):
    # Drawn from a random half of the classes, so that some classes are absent from both.
    present = rng.permutation(num_classes)[: max(1, num_classes // 2)]
    for _ in range(pictures):
        shape = tuple(rng.integers(1, 60, 2))
        target = rng.choice(present, shape).astype(dtype)
        prediction = np.where(rng.random(shape) < 0.5, target, rng.choice(present, shape)).astype(np.int16)
        target[rng.random(shape) < ignored] = ignore_index
        prediction[rng.random(shape) < unlabelled] = -1
        yield prediction, target


@pytest.mark.parametrize(
    ("num_classes", "ignore_index", "dtype"),
    [
        (1, 255, np.uint8),
        (2, 255, np.uint8),
        (21, 255, np.uint8),
        (171, 255, np.uint8),
        (254, 255, np.uint8),
        (255, 255, np.uint8),
        (255, 999, np.int32),
        (256, 65535, np.uint16),
        (847, 65535, np.int32),
        (150, -1, np.int64),
    ],
)
@pytest.mark.parametrize("unlabelled", [0.0, 0.1])
def test_equals_scikit_learn(num_classes, ignore_index, dtype, unlabelled):
    rng = np.random.default_rng(num_classes)
    pairs = list(random_maps(rng, num_classes, ignore_index, dtype, unlabelled=unlabelled))
    totals = IoUTotals(num_classes, ignore_index)
    for prediction, target in pairs:
        totals.add(prediction, target)
    iou, accuracy = iou_by_scikit_learn(*zip(*pairs, strict=True), num_classes, ignore_index)
    np.testing.assert_array_equal(totals.iou, iou)
    assert totals.miou == pytest.approx(np.nanmean(iou), rel=1e-12)
    assert totals.aacc == accuracy


def test_classes_absent_from_both_are_ignored():
    totals = IoUTotals(3)
    totals.add(np.array([[0, 0]]), np.array([[0, 1]]))
    assert np.isnan(totals.iou[2])
    assert totals.miou == 0.25  # class 0: 1/2, class 1: 0/1, class 2: absent


def test_accuracy_is_of_the_pixels_that_are_labelled():
    totals = IoUTotals(3)
    totals.add(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]))
    np.testing.assert_array_equal(totals.accuracy, [1, 0.5, np.nan])
    assert (totals.macc, totals.miou, totals.aacc) == (0.75, 0.5, 2 / 3)


def test_a_set_without_any_labelled_pixel_has_no_figure():
    totals = IoUTotals(3)
    totals.add(np.zeros((2, 2), int), np.full((2, 2), 255))
    assert np.isnan(totals.miou) and np.isnan(totals.aacc) and totals.counts.sum() == 0


def test_order_and_grouping_do_not_change_the_sums():
    rng = np.random.default_rng(1)
    pairs = list(random_maps(rng, 19, 255, np.uint8, pictures=9))
    whole, first, second = IoUTotals(19), IoUTotals(19), IoUTotals(19)
    for prediction, target in pairs:
        whole.add(prediction, target)
    for prediction, target in pairs[::-2]:
        first.add(prediction, target)
    for prediction, target in pairs[-2::-2]:
        second.merge(count_picture(prediction, target, 19))
    second.merge(first)
    np.testing.assert_array_equal(whole.counts, second.counts)
    assert whole.miou == second.miou


@pytest.mark.parametrize(
    ("prediction", "target", "says"),
    [
        (np.array([[3]]), np.array([[0]]), "prediction holds 3"),
        (np.array([[-2]]), np.array([[0]]), "prediction holds -2"),
        (np.array([[0]]), np.array([[3]]), "target holds 3"),
        (np.array([[300]], np.int16), np.array([[0]]), "prediction holds 300"),
        (np.array([[0]]), np.array([[0.0]]), "expected integers"),
    ],
)
def test_values_that_name_no_class_are_an_error(prediction, target, says):
    with pytest.raises(LabelRangeError, match=says):
        count_picture(prediction, target, num_classes=3)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 2\) and target of shape \(2, 3\)"):
        count_picture(np.zeros((2, 2), int), np.zeros((2, 3), int), num_classes=3)


def test_a_cityscapes_map_takes_milliseconds():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 19, (1024, 2048)).astype(np.uint8)
    prediction = rng.integers(0, 19, (1024, 2048)).astype(np.int16)

    def once():
        start = time.perf_counter()
        count_picture(prediction, target, 19)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.15  # about 15 ms; the bound leaves room for a busy machine
