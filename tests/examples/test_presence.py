"""Threshold and slope of a null by annotated pictures: what moves them, what does not, and the command."""

import dataclasses
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import SettingError
from sclip_plugin.examples.presence import fit
from sclip_plugin.examples.reading import read_examples
from sclip_plugin.steps.presence import Presence

SCENES = [sp.draw_scene(seed=1_000_200 + index, size=(216, 144)) for index in range(6)]


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter.from_pretrained("demo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six annotated scenes as bad JPEGs, in which absent words get numbers that are too high."""
    root = tmp_path_factory.mktemp("annotated")
    for index, scene in enumerate(SCENES):
        held = io.BytesIO()
        scene.picture.save(held, "JPEG", quality=12)
        picture = Image.open(held).convert("RGB")
        picture.save(root / f"{index}.png")
        sp.Segmentation(scene.labels, scene.label_map, picture).export(root, "labelme", source=root / f"{index}.png")
    return root


def brier(seg, null, read, labels):
    errors = []
    for item, scene in zip(read.items, SCENES, strict=True):
        presence = seg(Image.open(item.picture), labels, present=null).presence
        errors += [(number - (label in scene.labels)) ** 2 for label, number in presence.items()]
    return np.mean(errors)


def test_the_fit_lowers_the_brier_score_and_changes_the_identity(seg, folder):
    from sclip_plugin.demo import CLASSES

    read, own = read_examples(folder), seg.chain.null
    fitted = fit(seg, read, labels=list(CLASSES))
    assert fitted.pictures == 6 and fitted.problems == () and fitted.before.count == fitted.after.count == 300
    assert fitted.before.brier == pytest.approx(brier(seg, own, read, list(CLASSES)), abs=1e-6)
    assert brier(seg, fitted.null, read, list(CLASSES)) < fitted.before.brier
    assert fitted.after.brier != pytest.approx(brier(seg, fitted.null, read, list(CLASSES)), abs=1e-6), "left out"
    assert fitted.null.threshold > own.threshold, "absent words are called present too often"
    assert fitted.null.identity() != own.identity()
    same = dataclasses.replace(fitted.null, threshold=own.threshold, slope=own.slope)
    assert same.identity() == own.identity(), "nothing else changes"


def test_one_mistake_does_not_draw_the_threshold_away():
    null = Presence(mean=torch.zeros(4), low=0.0, median=0.0, spread=1.0)
    z = torch.linspace(-6, 10, 400)
    fitted = null.fitted(torch.cat([z, torch.tensor([-30.0])]), torch.cat([z > 4, torch.tensor([True])]))
    assert fitted.threshold == pytest.approx(4, abs=0.2) and fitted.slope > 3
    few = null.fitted(torch.tensor([1.0, 5.0]), torch.tensor([False, True]))
    assert few.threshold == pytest.approx(2, abs=0.3) and few.slope == pytest.approx(3, rel=0.2)


def test_too_few_pictures_and_no_null_are_refused(seg, folder):
    read = read_examples(folder)
    few = dataclasses.replace(read, items=read.items[:2])
    with pytest.raises(SettingError, match="given 2 annotated pictures; expected 3"):
        fit(seg, few)
    with pytest.raises(SettingError, match="presence build"):
        fit(sp.Segmenter.from_pretrained("demo", presence=None), read)


def test_the_command_writes_a_file_that_others_take(seg, folder, tmp_path, monkeypatch, capsys):
    def sclip(*arguments):
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            program.run()
        return ended.value.code, *capsys.readouterr()

    file = tmp_path / "null.safetensors"
    seg.chain.null.save(file)
    words = ", ".join(sorted({label for scene in SCENES for label in scene.labels}) + ["zebra", "guitar", "clock"])
    code, out, error = sclip("presence", "fit", folder, "--null", file, "-m", "demo", "--labels", words)
    assert not code, error
    assert "6 pictures; as it was: precision" in out and f"-> {file}" in out
    moved = Presence.load(file)
    assert moved.threshold != 2.0 and f"threshold {moved.threshold:.2f}, slope {moved.slope:.2f}" in out
    code, _, error = sclip("presence", "fit", folder, "-m", "demo")
    assert code == 2 and "--out is missing" in error
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    code, _, error = sclip("presence", "fit", folder, "-m", "demo", "-o", mine)
    assert code == 2 and mine.read_text() == "mine"
    one = sorted(folder.iterdir())[:6]
    code, out, _ = sclip("presence", "fit", *one, "-m", "demo", "-o", tmp_path / "few.safetensors")
    assert ("nothing was written" in out) != (tmp_path / "few.safetensors").exists()
