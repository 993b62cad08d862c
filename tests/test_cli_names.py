"""`sclip names`, and --labels @auto on the commands that take it and those that do not."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.demo import CLASSES

SCENES = [sp.draw_scene(seed=seed, size=(216, 144)) for seed in (2001, 2002)]


@pytest.fixture
def sclip(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            program.run()
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, scene in enumerate(SCENES):
        scene.picture.save(folder / f"{number}.png")
    (folder / "own.list").write_text("\n".join(CLASSES))
    return folder


def auto(pictures):
    return f"@auto:{pictures / 'own.list'}"


def test_names_as_json(sclip, pictures):
    code, out, _ = sclip("names", pictures, "-l", auto(pictures), "-m", "demo", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [{name["word"] for name in line["names"]} for line in lines] == [set(scene.labels) for scene in SCENES]
    assert set(lines[0]["names"][0]) == {"word", "share", "cosine", "presence", "synonyms"}


def test_names_as_a_table_and_a_picture_that_cannot_be_read(sclip, pictures, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(pictures, folder)
    (folder / "bad.png").write_bytes(b"\x89PNG")
    code, out, err = sclip("names", folder, "-l", auto(pictures), "-m", "demo", "--top", 1)
    assert code == 1 and "bad.png" in err
    table = out.split("pictures  word\n")[1].split("\n")[:-1]
    assert out.count(": 1 names") == 2 and sum(int(row.split()[0]) for row in table) == 2


def test_segment_by_names(sclip, pictures, tmp_path):
    command = ("segment", pictures, "-l", f"{auto(pictures)}, zebra", "-m", "demo", "-o", tmp_path, "--json")
    code, out, _ = sclip(*command)
    assert code == 0
    for line, scene in zip(map(json.loads, out.splitlines()), SCENES, strict=True):
        assert {entry["label"] for entry in line["labels"]} == {*scene.labels, "zebra"}
    assert sclip(*command, "--resume")[1].count('"skipped"') == 2


def test_label_by_names(sclip, pictures, tmp_path):
    code, out, _ = sclip(
        "label", pictures / "0.png", "--masks", "slic(segments=8)", "-l", auto(pictures), "-m", "demo", "-o", tmp_path
    )
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()[:-1]} <= set(SCENES[0].labels)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["segment", "0.png", "-l", "@auto", "--format", "coco"], "sclip names"),
        (["segment", "0.png", "-l", "@auto", "--heatmaps"], "sclip names"),
        (["segment", "0.png", "-l", "@auto:gone.txt"], "gone.txt"),
        (["compare", "0.png", "-l", "@auto"], "one picture at a time"),
        (["names", "0.png", "-l", "cat"], "expected '@auto'"),
        (["names", "0.png", "--method", "naclip"], "sclip presence build"),
    ],
)
def test_mistakes_end_in_a_sentence(sclip, pictures, command, words, monkeypatch):
    monkeypatch.chdir(pictures)
    code, _, err = sclip(*command, "-m", "demo")
    assert code == 2 and words in err and "Traceback" not in err


def test_a_model_without_a_null_learns_it_from_the_pictures(sclip, tmp_path, pictures):
    model, many = tmp_path / "model", tmp_path / "many"
    shutil.copytree(sp.demo_model(), model)
    (model / "presence.safetensors").unlink()
    many.mkdir()
    for seed in range(5):
        sp.draw_scene(seed=seed, size=(120, 96)).picture.save(many / f"{seed}.png")
    code, out, err = sclip("names", many, "-l", auto(pictures), "-m", model, "--quiet")
    assert code == 0 and "learned from 5 of the pictures" in err and "pictures  word" in out
    code, _, err = sclip("names", pictures / "0.png", "-l", auto(pictures), "-m", model)
    assert code == 2 and "5 or more" in err
