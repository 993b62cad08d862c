"""Settings on the command line: every one of them, and what is wrong before anything is computed."""

import json
import sys

import golden
import numpy as np
import pytest
from PIL import Image

from sclip_plugin.cli import program as cli
from sclip_plugin.segment.results import is_result


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(golden.save_folder(tmp_path_factory.mktemp("golden-clip")))


@pytest.fixture
def sclip(monkeypatch, capsys, tmp_path):
    """Runs the command line in a folder with one picture, and gives the exit code, standard output and error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def test_segment_takes_every_setting(sclip, model, tmp_path):
    named = ["--method", "naclip", "--window", "56", "--stride", "28", "--resize", "64", "--threshold", "0.2"]
    named += ["--steps", "pamr(steps=1, dilations=(4, 8))", "--padding", "black", "--views", "0.7", "--no-stitched"]
    changes = {"std": "4.0", "logit_scale": "50", "background": "true"}
    pairs = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    code, _, said = sclip(
        "segment", "a.png", "-l", "cat,dog", "-m", model, "-o", "out", "--templates", "a {} of {{x}}", *named, *pairs
    )
    assert code == 0, said
    settings = json.loads((tmp_path / "out/a.json").read_text())["settings"]
    assert settings["method"] == "naclip(std=4.0)" and settings["padding"] == "black" and settings["views"] == 0.7
    assert (settings["window"], settings["stride"], settings["resize_short_side"]) == (56, 28, 64)
    assert settings["logit_scale"] == 50.0
    assert settings["steps"] == ["pamr(steps=1, dilations=(4, 8))", "threshold(probability=0.2)"]
    assert settings["templates"] == ["a {} of {{x}}"] and settings["background"] is True


def test_a_preset_gives_settings_and_classes(sclip, model, tmp_path):
    small = ["-m", model, "-o", "out", "--preset", "naclip/voc20", "--templates", "plain", "--resize", "112"]
    code, _, said = sclip("segment", "a.png", *small)
    assert code == 0, said
    report = json.loads((tmp_path / "out/a.json").read_text())
    assert len(report["labels"]) == 20 and report["settings"]["method"] == "naclip"
    sclip("segment", "a.png", *small, "-l", "cat,dog", "--method", "csa")
    report = json.loads((tmp_path / "out/a.json").read_text())
    assert [entry["label"] for entry in report["labels"]] == ["cat", "dog"] and report["settings"]["method"] == "csa"


def test_compare_takes_methods_with_options(sclip, model, tmp_path):
    methods = "csa, naclip(std=9)"
    command = ["compare", "a.png", "-l", "cat,dog", "-m", model, "--methods", methods, "--templates", "plain"]
    code, printed, said = sclip(*command, "--set", "logit_scale=9", "--stride", "56", "--json")
    assert code == 0, said
    found = json.loads(printed)
    assert [row["method"] for row in found["methods"]] == ["csa", "naclip(std=9)"] and found["file"] == "compare.png"
    assert "csa:" in said and is_result(tmp_path / "compare.png")
    code, printed, said = sclip(*command, "-o", "new/x.jpg", "--quiet")
    assert (code, printed, said) == (0, "", "") and (tmp_path / "new/x.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment", "a.png"], "--labels"),
        (["segment", "a.png", "--preset", "sclip/voc"], "Benchmarks: voc21"),
        (["segment", "a.png", "-l", "cat", "--set", "windwo=3"], "Did you mean 'window'"),
        (["segment", "a.png", "-l", "cat", "--set", "window=[["], "cannot be read as YAML"),
        (["segment", "a.png", "-l", "cat", "--set", "window"], "expected NAME=VALUE"),
        (["segment", "a.png", "-l", "cat", "--set", "x=&a [*a]"], "nested more than"),
        (["segment", "a.png", "-l", "cat", "--window", "40", "--stride", "50"], "larger than window"),
        (["segment", "a.png", "-l", "cat,background", "--set", "background=true"], "twice"),
        (["segment", "a.png", "-l", "cat", "--opacity", "1.5"], "--opacity"),
        (["segment", "a.png", "-l", "lab/coco.names"], "write --labels @lab/coco.names"),
        (["compare", "a.png", "-l", "cat", "-o", "lab"], "is a folder"),
        (["compare", "a.png", "-l", "cat", "-o", "x.xyz"], "suffix '.xyz'"),
        (["compare", "a.png", "-l", "cat", "-o", "a.png"], "is no result of sclip"),
        (["label", "lab/x.png", "--masks", "slic", "-l", "cat", "-o", "lab"], "x.masks.png is there"),
        (["compare", "a.png", "-l", "cat", "--set", "nothing=1"], "unknown setting 'nothing'"),
        (["compare", "none.png", "-l", "cat"], "no such picture"),
    ],
)
def test_mistakes_are_said_before_a_model_is_read(sclip, tmp_path, arguments, words):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/coco.names").write_text("cat\n")
    (tmp_path / "lab/x.masks.png").write_bytes(b"somebody's own")
    code, printed, said = sclip(*arguments, "-m", "no-such-model")
    assert code == 2 and printed == ""
    assert words in said and "no-such-model" not in said and "Traceback" not in said


def test_the_demo_model_says_what_it_is_for(sclip, tmp_path):
    _, _, said = sclip("segment", "a.png", "a.png", "-l", "cat", "-m", "demo", "-o", "out")
    assert said.count("knows drawn things only") == 1


def test_a_larger_limit_on_pixels(sclip, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    command = ["segment", "a.png", "-l", "cat", "-m", model, "-o", "out", "--templates", "plain"]
    code, _, said = sclip(*command)
    assert code == 2 and "a.png is 60 x 40, 2,400 pixels" in said and "--max-pixels" in said
    assert sclip(*command, "--max-pixels", "2400")[0] == 0
