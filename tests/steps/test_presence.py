"""Presence: the rule against plain numpy, what absent words paint, nulls and their files, and the surfaces."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import ArgumentTypeError, FileFormatError, SettingError
from sclip_plugin.steps import presence as rule
from sclip_plugin.steps.presence import Presence, Present

SCENES = [sp.draw_scene(seed=seed, size=(120, 96)) for seed in range(6)]
WORDS = [*SCENES[0].labels, "zebra", "teapot", ["car", "truck"]]


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False)


@pytest.fixture(scope="module")
def null(seg):
    return Presence.build(seg, [scene.picture for scene in SCENES])


def patches_of(seg, picture):
    """(N, D) float64: unit features of the patches, averaged over windows."""
    return seg.encode(picture, dtype=torch.float32).features().flatten(1).T.double().numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def highest(cosines):
    count = max(1, round(len(cosines) / 80))
    return np.sort(cosines, axis=0)[-count:].mean(axis=0)


def test_the_null_is_that_of_the_text(seg, null):
    seen = [patches_of(seg, scene.picture) for scene in SCENES]
    mean = unit(np.concatenate(seen).mean(axis=0))
    text = seg.text_embeddings(list(rule.WORDS))[1].double().numpy()
    text = unit(text - np.outer(text @ mean, mean))
    cosines = [patches @ text.T for patches in seen]
    peaks = np.concatenate([highest(each) for each in cosines])
    middle = np.sort(peaks)[(len(peaks) - 1) // 2]
    assert np.allclose(null.mean.numpy(), mean, atol=1e-6)
    assert null.median == pytest.approx(middle, abs=1e-6)
    spread = np.sort(np.abs(peaks - middle))[(len(peaks) - 1) // 2]
    assert null.spread == pytest.approx(1.4826 * spread, abs=1e-6)
    assert null.low == pytest.approx(np.quantile(np.concatenate(cosines), 0.02), abs=1e-6)
    assert null.pictures == 6


@pytest.mark.parametrize("words", [WORDS, ["zebra", SCENES[0].labels[0], "car"], ["zebra"]], ids=len)
def test_the_numbers_are_those_of_the_text(seg, null, words):
    picture = SCENES[0].picture
    result = seg(picture, words, present=null)
    vocabulary, text = seg.text_embeddings(words)
    mean, of_class = null.mean.double().numpy(), np.array(vocabulary.class_of_name)
    text = text.double().numpy()
    cosines = patches_of(seg, picture) @ unit(text - np.outer(text @ mean, mean)).T
    for name, own in enumerate(of_class):
        others = cosines[:, of_class != own]
        if others.size:
            beaten = others.max(axis=1) > cosines[:, name]
            # What other names are at the patch is read before they are lowered.
            cosines[beaten, name] = np.where(beaten, -np.inf, 0)[beaten]
    heights = (highest(np.where(np.isinf(cosines), null.low, cosines)) - null.median) / null.spread
    threshold = 2.0 if len(vocabulary.labels) >= 5 else 2.5
    for index, label in enumerate(vocabulary.labels):
        expected = 1 / (1 + np.exp(-3 * (heights[of_class == index].max() - threshold)))
        assert result.presence[label] == pytest.approx(expected, abs=1e-4), label


def test_absent_words_paint_nothing_and_their_pixels_go_to_the_best_word_that_is_there(seg):
    scene = SCENES[1]
    absent = [word for word in ("car", "ball", "crab", "clock", "pizza", "train") if word not in scene.labels]
    words = [*absent, *scene.labels]
    free, kept = (seg(scene.picture, words, present=present) for present in (False, 0.5))
    assert free.presence is None and free.settings["steps"] == []
    there = {word for word in words if kept.presence[word] >= 0.5}
    assert there and not there.issuperset(words)
    painted = {label for label, area in kept.areas().items() if area}
    assert painted <= there
    # What is left is the best of the words that are there, by the same scores.
    cosines = seg.encode(scene.picture, dtype=torch.float32).similarity(words)
    cosines[[word not in there for word in words]] = -np.inf
    assert (cosines.argmax(axis=0) == kept.label_map).all()
    assert not kept.scores[[word not in there for word in words]].any()


def test_with_no_word_left_no_pixel_has_a_label(seg):
    scene = SCENES[2]
    result = seg(scene.picture, [word for word in ("car", "ball", "crab", "clock") if word not in scene.labels])
    assert (result.label_map == -1).all() and not result.scores.any() and max(result.presence.values()) < 0.5
    assert (seg(scene.picture, ["zebra"], steps="present, pamr, vote", masks="slic").label_map == -1).all()


def test_vectors_and_background_are_always_there(seg):
    scene = SCENES[0]
    vector = seg.vector_of(scene.picture, scene.label_map == 0)
    result = seg(scene.picture, {"this": vector, "zebra": ["zebra"]}, background=True)
    assert set(result.presence) == {"zebra"} and result.presence["zebra"] < 0.5
    painted = {label for label, area in result.areas().items() if area}
    assert painted <= {"this", "background"} and "this" in painted


def test_a_threshold_of_zero_reports_and_paints_all(seg):
    scene, words = SCENES[0], list(WORDS)
    shown, free = seg(scene.picture, words, present=0.0), seg(scene.picture, words, present=False)
    assert (shown.label_map == free.label_map).all() and min(shown.presence.values()) < 0.5


def test_the_area_rule_of_benchmarks_leaves_absent_words_absent(seg):
    scene = SCENES[0]
    words = ["grass", *[label for label in scene.labels if label != "grass"], "zebra"]
    result = seg(scene.picture, words, steps="present, benchmark(area=0.1)")
    absent = {word for word, number in result.presence.items() if number < 0.5}
    assert absent and not any(result.mask(word).any() for word in absent)


def test_an_encoded_picture_is_answered_like_a_call(seg, tmp_path):
    scene = SCENES[3]
    called = seg(scene.picture, WORDS)
    encoded = seg.encode(scene.picture, dtype=torch.float32)
    asked = encoded.segment(WORDS)
    assert asked.presence == pytest.approx(called.presence, abs=1e-5)
    assert (asked.label_map == called.label_map).all()
    with_features = seg(scene.picture, WORDS, steps="surgery, present")
    assert with_features.presence == pytest.approx(called.presence, abs=1e-5), "read before any step"
    called.save(tmp_path, "photo")
    assert sp.Segmentation.load(tmp_path, "photo").presence == pytest.approx(called.presence)


def test_presence_of_a_camera_is_smoothed(seg):
    scene = SCENES[4]
    frames = [Image.new("RGB", scene.picture.size, "grey"), scene.picture]
    first, second = [result.presence for result in seg.stream(frames, WORDS, smoothing=0.75)]
    alone = seg(frames[1], WORDS).presence
    for word, number in second.items():
        assert number == pytest.approx(0.25 * alone[word] + 0.75 * first[word], abs=1e-6)


def test_other_features_have_no_null_of_their_own_and_are_answered_without(seg):
    result = seg(SCENES[0].picture, WORDS, method="clearclip")
    assert result.presence is None and result.settings["steps"] == ["present"]


class TestNulls:
    def test_a_file_gives_what_was_learned(self, seg, null, tmp_path):
        null.save(tmp_path / "null.safetensors")
        again = Presence.load(tmp_path / "null.safetensors")
        assert again.identity() == null.identity()
        path = str(tmp_path / "null.safetensors")
        first, second = (seg(SCENES[0].picture, WORDS, present=given) for given in (null, path))
        assert first.presence == second.presence
        assert second.settings["steps"] == [f"present(null='{path}')"]
        assert seg.identity(WORDS, present=null) == seg.identity(WORDS, present=path) != seg.identity(WORDS)

    def test_another_null_is_another_identity(self, seg, null):
        other = dataclasses.replace(null, threshold=2.5)
        assert seg.identity(WORDS, present=null) != seg.identity(WORDS, present=other)
        with_own, with_other = (sp.Segmenter.from_pretrained("demo", presence=each) for each in (null, other))
        assert with_own.settings == with_other.settings and with_own.identity(WORDS) != with_other.identity(WORDS)

    def test_named_with_other_settings_or_another_model_it_is_refused(self, seg, null, segmenter):
        with pytest.raises(SettingError, match="other settings"):
            seg(SCENES[0].picture, WORDS, present=null, method="clearclip")
        fitting = dataclasses.replace(null, features=segmenter.settings.feature_identity())
        with pytest.raises(SettingError, match="another model"):
            segmenter(SCENES[0].picture, ["cat"], present=fitting)

    def test_without_a_null_the_step_says_how_to_make_one(self, segmenter):
        assert segmenter.settings.steps == ()
        with pytest.raises(SettingError, match="sclip presence build"):
            segmenter(SCENES[0].picture, ["cat"], present=True)

    def test_fewer_than_five_pictures_teach_nothing(self, seg):
        with pytest.raises(SettingError, match="4 pictures"):
            Presence.build(seg, [scene.picture for scene in SCENES[:4]])

    def test_features_that_depend_on_words_are_refused(self, seg):
        with pytest.raises(SettingError, match="depend on the words"):
            Presence.build(seg, [scene.picture for scene in SCENES], method="resclip")

    def test_other_precision_is_the_same_model(self, seg, null):
        half = sp.Segmenter.from_pretrained("demo", dtype="bfloat16", presence=None, cache_dir=False)
        found = half(SCENES[0].picture, WORDS, present=null).presence
        ours = seg(SCENES[0].picture, WORDS, present=null).presence
        assert {k for k, v in found.items() if v >= 0.5} == {k for k, v in ours.items() if v >= 0.5}

    @pytest.mark.parametrize("content", [b"", b"hello", b"{}"])
    def test_a_foreign_file_is_refused(self, seg, tmp_path, content):
        path = tmp_path / "null.safetensors"
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="presence build"):
            seg(SCENES[0].picture, WORDS, present=str(path))

    def test_what_is_no_null_is_refused(self):
        with pytest.raises(ArgumentTypeError):
            Present(null=3)
        with pytest.raises(SettingError, match="no file"):
            Present(null="missing.safetensors")
        with pytest.raises(SettingError):
            Present(threshold=1.5)


@pytest.fixture
def sclip(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            program.run()
        return ended.value.code, *capsys.readouterr()

    return run


class TestCommands:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        """A model without a null, and six pictures."""
        root = tmp_path_factory.mktemp("presence")
        shutil.copytree(sp.demo_model(), root / "model")
        (root / "model" / "presence.safetensors").unlink()
        (root / "photos").mkdir()
        for index, scene in enumerate(SCENES):
            scene.picture.save(root / "photos" / f"{index}.png")
        return root

    def test_absent_words_are_said(self, folder, sclip, tmp_path):
        code, out, _ = sclip("segment", folder / "photos/0.png", "-m", "demo", "-l", "zebra, grass", "-o", tmp_path)
        assert not code and "not there: " in out and "zebra" in out
        said = json.loads((tmp_path / "0.json").read_text())
        assert {row["label"]: row["presence"] < 0.5 for row in said["labels"]}["zebra"]
        code, out, _ = sclip(
            "segment", folder / "photos/0.png", "-m", "demo", "-l", "zebra", "-o", tmp_path, "--present", "no"
        )
        assert not code and "zebra 100 %" in out

    def test_a_folder_teaches_its_own_null_and_a_resume_keeps_it(self, folder, sclip, tmp_path):
        asked = ["segment", folder / "photos", "-m", folder / "model", "-l", "zebra, grass", "-o", tmp_path]
        code, _, error = sclip(*asked, "--present", "yes")
        assert not code and "learned from 6 pictures" in error
        first = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
        code, _, error = sclip(*asked, "--present", "yes", "--resume")
        assert not code and "6 skipped" in error and "learned" not in error
        assert first == {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}

    def test_fewer_than_five_pictures_are_refused(self, folder, sclip, tmp_path):
        code, _, error = sclip(
            "segment",
            folder / "photos/0.png",
            "-m",
            folder / "model",
            "-l",
            "zebra",
            "-o",
            tmp_path,
            "--present",
            "yes",
        )
        assert code == 2 and "expected 5 or more" in error

    def test_build_writes_a_file_that_other_commands_take(self, folder, sclip, tmp_path):
        file = tmp_path / "null.safetensors"
        code, out, _ = sclip("presence", "build", folder / "photos", "-m", folder / "model", "-o", file)
        assert not code and "6 pictures" in out
        code, out, _ = sclip(
            "segment", folder / "photos/0.png", "-m", folder / "model", "-l", "zebra", "-o", tmp_path, "--present", file
        )
        assert not code and "not there: zebra" in out
        other = tmp_path / "mine.txt"
        other.write_text("mine")
        code, _, error = sclip("presence", "build", folder / "photos", "-m", folder / "model", "-o", other)
        assert code == 2 and other.read_text() == "mine" and "no file of" in error


def test_the_sample_does_not_depend_on_the_order(seg, tmp_path):
    from sclip_plugin.cli.pictures import find_pictures
    from sclip_plugin.cli.presence import learned

    for index, scene in enumerate(SCENES):
        scene.picture.save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = find_pictures([str(tmp_path)]).pictures
    assert learned(seg, pictures).identity() == learned(seg, pictures[::-1]).identity()
