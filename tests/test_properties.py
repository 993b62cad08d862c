"""What holds for all inputs, on inputs that hypothesis chooses (always the same ones)."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sclip_plugin.errors import LabelError, SclipError
from sclip_plugin.evaluation.pascal_context import decode_rle
from sclip_plugin.evaluation.picture_log import PictureLog, PictureRecord
from sclip_plugin.segment.windows import WindowPlan
from sclip_plugin.settings import Settings, setting_names
from sclip_plugin.steps.short import SHORT_FORMS
from sclip_plugin.text.labels import parse_labels

settings.register_profile("same", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same")

names = st.text(min_size=1, max_size=12).filter(lambda text: text.strip())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


groups = st.lists(names, min_size=1, max_size=4)


@given(st.lists(groups, min_size=1, max_size=8, unique_by=lambda group: group[0].strip()))
def test_labels_keep_every_name_of_every_class(classes):
    vocabulary = parse_labels(classes)
    assert vocabulary.labels == tuple(group[0].strip() for group in classes)
    for index, group in enumerate(classes):
        own = [n for n, c in zip(vocabulary.names, vocabulary.class_of_name, strict=True) if c == index]
        assert own == list(dict.fromkeys(name.strip() for name in group))
    assert parse_labels({group[0]: group for group in classes}) == vocabulary


@given(anything)
def test_whatever_is_given_as_labels_is_classes_or_an_error_of_ours(given_labels):
    try:
        vocabulary = parse_labels(given_labels)
    except LabelError:
        return
    assert vocabulary.labels and len(set(vocabulary.labels)) == len(vocabulary.labels)


@given(st.sampled_from(sorted(setting_names() | set(SHORT_FORMS))), anything)
def test_whatever_is_given_as_a_setting_is_one_or_an_error_of_ours(name, value):
    try:
        chosen = Settings().changed(**{name: value})
    except SclipError:
        return
    assert chosen.identity() == Settings().changed(**{name: value}).identity()


@given(
    size=st.tuples(st.integers(16, 200), st.integers(16, 200)),
    window=st.sampled_from([0, 16, 17, 40, 64, 112, 300]),
    data=st.data(),
)
def test_windows_see_every_pixel_and_weigh_as_one(size, window, data):
    stride = data.draw(st.integers(1, window)) if window else 1
    plan = WindowPlan.of(size, window, stride if stride * 20 > max(size) else max(1, window), (16, 16))
    seen = np.zeros(size, int)
    for top, left, _, _ in plan.boxes():
        seen[top : top + plan.window[0], left : left + plan.window[1]] += 1
    assert seen.min() >= 1 and len(list(plan.boxes())) == len(plan)
    ones = torch.ones(plan.empty_values(1, torch.zeros(1)).shape)
    output = data.draw(st.sampled_from([size, (50, 31)]))
    torch.testing.assert_close(plan.stitched(ones, output).full(), torch.ones(*output, 1))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_run_lengths_are_read_as_coco_writes_them(height, width, seed, compressed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    text = encoded["counts"].decode()
    segmentation = {"size": [height, width], "counts": text if compressed else _lengths(mask)}
    np.testing.assert_array_equal(decode_rle(segmentation, (height, width)), mask)


def _lengths(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges])).tolist()


@given(cut=st.integers(0, 2000), count=st.integers(0, 6))
def test_a_log_that_is_cut_anywhere_goes_on(cut, count):
    """What was written whole before the cut is known, nothing else is, and the log can be written on."""
    records = [PictureRecord(f"picture {i}", np.full((3, 2), i, np.int64), "source") for i in range(count)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        log = PictureLog(Path(folder), {"method": "csa"}, 2)
        log.open()
        ends = []
        for record in records:
            log.append(record)
            ends.append(log.path.stat().st_size)
        log.close()
        content = log.path.read_bytes()[:cut]
        log.path.write_bytes(content)
        again = PictureLog(Path(folder), {"method": "csa"}, 2)
        known = [record.name for record, end in zip(records, ends, strict=True) if end <= len(content)]
        assert sorted(again.read()) == sorted(known)
        again.open()
        again.append(PictureRecord("last", np.zeros((3, 2), np.int64), "source"))
        again.close()
        assert sorted(PictureLog(Path(folder), {"method": "csa"}, 2).read()) == sorted([*known, "last"])
