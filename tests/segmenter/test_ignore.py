"""Words that compete and are neither painted nor named: ``ignore="ball"``."""

import json
import sys

import numpy as np
import pytest

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import LabelError
from sclip_plugin.text.labels import parse_ignored, parse_labels

SCENE = sp.draw_scene(seed=7)
GONE, *KEPT = SCENE.labels


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False)


@pytest.mark.parametrize("steps", ["", "present", "pamr, threshold(0.4)", "affinity", "closing(3)"])
def test_it_is_the_result_with_the_word_less_its_pixels(seg, steps):
    whole = seg(SCENE.picture, [*KEPT, GONE], steps=steps)
    result = seg(SCENE.picture, KEPT, steps=steps, ignore=GONE)
    assert result.labels == tuple(KEPT) and GONE not in (result.presence or {})
    expected = np.where(whole.label_map == len(KEPT), -1, whole.label_map)
    assert (expected == -1).any()
    np.testing.assert_array_equal(result.label_map, expected)
    np.testing.assert_array_equal(result.scores, whole.scores[:-1])
    assert {label: whole.presence[label] for label in KEPT} == result.presence if whole.presence else True


def test_an_encoded_picture_and_constants_give_the_same(seg):
    import torch

    asked = seg.encode(SCENE.picture, dtype=torch.float32).segment(KEPT, ignore=[GONE])
    np.testing.assert_array_equal(asked.label_map, seg(SCENE.picture, KEPT, ignore=[GONE]).label_map)
    assert seg.identity(KEPT, ignore=GONE) != seg.identity(KEPT)
    assert seg.settings.changed(ignore=GONE).feature_identity() == seg.settings.feature_identity()
    assert seg.text_embeddings([GONE], ignore=GONE)[0].labels == (GONE,), "words by themselves compete with nothing"


@pytest.mark.parametrize("wrong", [["cat", ["cup", "mug"]], ["cat", ""], 3, {"cat": np.ones(3)}])
def test_what_is_no_word_is_refused(wrong):
    with pytest.raises(LabelError):
        parse_ignored(wrong)
    assert parse_ignored(None) == parse_ignored("") == parse_ignored([]) == ()


def test_a_word_is_a_label_or_ignored(seg):
    with pytest.raises(LabelError, match="among the labels and in ignore"):
        seg(SCENE.picture, KEPT, ignore=KEPT[0])
    tuned = seg.tune([SCENE.picture], [SCENE.label_map], list(SCENE.labels))
    with pytest.raises(LabelError, match="tuned"):
        seg(SCENE.picture, tuned, ignore="zebra")
    assert parse_labels("cat").beside(()) == parse_labels("cat")


def test_the_command_neither_paints_nor_exports_it(tmp_path, monkeypatch, capsys):
    SCENE.picture.save(tmp_path / "scene.png")
    asked = ["segment", tmp_path / "scene.png", "-m", "demo", "-l", ",".join(KEPT), "--ignore", GONE, "-o", tmp_path]
    monkeypatch.setattr(sys, "argv", ["sclip", *map(str, [*asked, "--format", "coco,csv"])])
    with pytest.raises(SystemExit) as ended:
        program.run()
    assert not ended.value.code, capsys.readouterr().err
    said = json.loads((tmp_path / "scene.json").read_text())
    assert [row["label"] for row in said["labels"]] == KEPT and said["unlabelled"] > 0
    assert said["settings"]["ignore"] == [GONE]
    coco = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert [each["name"] for each in coco["categories"]] == KEPT
    assert GONE not in (tmp_path / "csv" / "labels.csv").read_text()
