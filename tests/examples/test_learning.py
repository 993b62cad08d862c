"""`sclip tune`: from annotations to a file of labels, and what is said of it."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import FileFormatError, LabelError
from sclip_plugin.examples.base import Annotated, Examples, Region
from sclip_plugin.examples.learning import Learnt, learn
from sclip_plugin.text.files import read_labels

SEEDS = range(1_000_000_100, 1_000_000_104)


def sclip(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        program.run()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def demo():
    return sp.Segmenter.from_pretrained("demo", device="cpu")


def written(folder, seeds):
    """Scenes with labelme's annotations."""
    for seed in seeds:
        scene = sp.draw_scene(seed)
        scene.picture.save(folder / f"{seed}.png")
        result = sp.Segmentation(scene.labels, scene.label_map, scene.picture)
        result.export(folder, "labelme", name=str(seed), source=folder / f"{seed}.png")
    return folder


def annotated(tmp_path, **regions):
    """A picture of 40 x 30 whose columns belong to categories."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")

    def columns(first, last):
        mask = np.zeros((30, 40), bool)
        mask[:, first:last] = True
        return lambda size: mask

    items = tuple(Region(name, columns(*place)) for name, place in regions.items())
    return Examples("test", list(regions), [Annotated(tmp_path / "a.png", "a.png", items)])


def test_from_annotations_to_masks(tmp_path, monkeypatch, capsys):
    folder, out = written(tmp_path, SEEDS), tmp_path / "mine.safetensors"
    assert sclip(monkeypatch, "tune", folder, "-o", out, "-m", "demo") == 0
    said = capsys.readouterr().out
    assert said.startswith("labelme: 4 pictures; pixels: ") and "mIoU of left-out pictures: " in said
    assert (
        sclip(monkeypatch, "segment", folder / f"{SEEDS[0]}.png", "-l", f"@{out}", "-m", "demo", "-o", tmp_path / "out")
        == 0
    )
    scene = sp.draw_scene(SEEDS[0])
    found = np.asarray(Image.open(tmp_path / "out" / f"{SEEDS[0]}.labels.png"))
    labels = read_labels(out).labels
    assert (np.array(labels)[found] == np.array(scene.labels)[scene.label_map]).mean() > 0.9


@pytest.mark.parametrize(
    ("tuned", "chosen", "said"),
    [
        (70.5, 1e-4, "70.5 tuned"),
        (66.2, 1e-4, "falls from 0.760 to 0.607"),
        (66.2, "words", "do not gain, so the labels are the words"),
    ],
)
def test_what_left_out_pictures_say_is_told(tuned, chosen, said):
    report = {
        "pictures": {"cat": 3}, "threshold": None, "left_out": {"words": 69.0, "tuned": tuned}, "chosen": chosen,
        "loss": {"words": 0.76, "tuned": 0.607},
    }  # fmt: skip
    lines = str(Learnt(SimpleNamespace(report=report), 3, {"cat": 9}, ())).splitlines()
    assert lines[-1].endswith(said) or said in lines[-1]
    assert len(lines) == (2 if tuned > 69 else 3)


def test_adding_looks_at_the_new_pictures_alone(tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, seeds in ((old, SEEDS[:3]), (new, SEEDS[3:])):
        folder.mkdir()
        written(folder, seeds)
    labels = ",".join(sorted({label for seed in SEEDS for label in sp.draw_scene(seed).labels}))
    common = ["-l", labels, "-m", "demo", "--json"]
    assert sclip(monkeypatch, "tune", old, "-o", tmp_path / "m.safetensors", *common) == 0
    for path in old.iterdir():
        path.unlink()
    assert sclip(monkeypatch, "tune", new, "-o", tmp_path / "m.safetensors", "--add", "-m", "demo") == 0
    written(old, SEEDS[:3])
    assert sclip(monkeypatch, "tune", old, new, "-o", tmp_path / "all.safetensors", *common) == 0
    added, at_once = read_labels(tmp_path / "m.safetensors"), read_labels(tmp_path / "all.safetensors")
    assert added.identity() == at_once.identity() and added.report == at_once.report
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"].keys() == set(labels.split(","))


class TestClasses:
    def test_categories_that_no_label_names(self, demo, tmp_path):
        examples = annotated(tmp_path, cat=(0, 20), dog=(20, 40))
        with pytest.raises(LabelError, match="no label names: dog. Add them"):
            learn(demo, examples, "cat, sofa")
        learnt = learn(demo, examples, "background, cat")
        assert learnt.pixels == {"background": 600, "cat": 600}

    def test_labels_that_nothing_shows(self, demo, tmp_path):
        learnt = learn(demo, annotated(tmp_path, cat=(0, 20)), "cat, sofa")
        assert "without examples, which keep their words: sofa" in str(learnt) and "not checked" in str(learnt)

    def test_synonyms_and_letters(self, demo, tmp_path):
        learnt = learn(demo, annotated(tmp_path, Couch=(0, 20), CAT=(20, 40)), [["sofa", "couch"], "cat"])
        assert learnt.pixels == {"sofa": 600, "cat": 600}

    def test_none_of_them(self, demo, tmp_path):
        with pytest.raises(LabelError, match="none of the annotated categories"):
            learn(demo, annotated(tmp_path, cat=(0, 20)), "bird")

    def test_the_annotations_own(self, demo, tmp_path):
        assert learn(demo, annotated(tmp_path, dog=(0, 20), cat=(20, 40))).tuned.labels == ("dog", "cat")


def test_a_picture_that_cannot_be_read_is_left_out(demo, tmp_path):
    examples = annotated(tmp_path, cat=(0, 20))
    (tmp_path / "b.png").write_bytes(b"none")
    examples.items.append(Annotated(tmp_path / "b.png", "b.png", ()))
    learnt = learn(demo, examples)
    assert learnt.pictures == 1 and "b.png cannot be read" in learnt.problems[0]
    with pytest.raises(FileFormatError, match="no example can be used: left out: .*b.png"):
        learn(demo, Examples("test", ["cat"], examples.items[1:]))


def test_a_picture_without_any_label_is_background(demo, tmp_path):
    examples = annotated(tmp_path, cat=(0, 20))
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    examples.items.append(Annotated(tmp_path / "b.png", "b.png", ()))
    assert learn(demo, examples, "cat, background").pixels == {"cat": 600, "background": 1800}
    assert learn(demo, examples, "cat").pictures == 2


def test_what_does_not_gain_is_said(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("sclip_plugin.segment.tuning.chosen", lambda held: "words")
    from sclip_plugin.examples.reading import read_examples

    learnt = learn(demo, read_examples(written(tmp_path, SEEDS[:3])))
    assert "left-out pictures do not gain, so the labels are the words" in str(learnt)


def test_the_file_has_its_own_suffix(tmp_path, monkeypatch, capsys):
    assert sclip(monkeypatch, "tune", tmp_path, "-o", tmp_path / "a.json") == 2
    assert "ends in .safetensors" in capsys.readouterr().err


class TestUnlabelled:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "photos").mkdir()
        for seed in range(2):
            sp.draw_scene(seed).picture.save(tmp_path / "photos" / f"{seed}.png")
        (tmp_path / "photos" / "broken.png").write_bytes(b"none")
        return tmp_path / "photos"

    def test_templates_of_each_class(self, folder, tmp_path, monkeypatch, capsys):
        out, labels = tmp_path / "mine.json", ",".join(sp.draw_scene(0).labels)
        how = ("-m", "demo", "-l", labels, "--templates", "plain", "--json")
        assert sclip(monkeypatch, "tune", "--unlabelled", folder, "-o", out, *how) == 1
        said = json.loads(capsys.readouterr().out)
        assert said["pictures"] == 2 and "broken.png" in said["problems"][0]
        assert set(said["templates"]) == set(sp.draw_scene(0).labels)
        step = f"floss('{out}')"
        photo = folder / "0.png"
        assert sclip(monkeypatch, "segment", photo, "-m", "demo", "-l", labels, "--steps", step, "-o", tmp_path) == 0

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "expected either EXAMPLES"),
            (("{}", "--unlabelled", "{}"), "expected either EXAMPLES"),
            (("--unlabelled", "{}"), "Missing option '--labels'"),
            (("--unlabelled", "{}", "-l", "cat", "-o", "a.safetensors"), "ends in .json"),
            (("--unlabelled", "{}", "-l", "cat", "-o", "{}/other.json"), "holds no ranked templates"),
        ],
    )
    def test_what_is_refused(self, arguments, says, folder, monkeypatch, capsys):
        (folder / "other.json").write_text("[]")
        given = [str(argument).replace("{}", str(folder)) for argument in arguments]
        assert sclip(monkeypatch, "tune", "-m", "demo", *given) == 2
        assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())
