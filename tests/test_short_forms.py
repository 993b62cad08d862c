"""One word means one thing on every surface: in Python, of an encoded picture, on the command line, in the pipeline."""

from __future__ import annotations

import json

import golden
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.cli.program import app

LABELS = ["cat", "dog", "grass"]
SMALL = {"resize_short_side": 112, "window": 112, "templates": "{}"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(golden.save_folder(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def seg(model):
    return sp.Segmenter.from_pretrained(model, cache_dir=False, device="cpu")


@pytest.fixture
def ask(model, seg, picture, tmp_path, monkeypatch):
    """A surface's label map for settings, and the steps that it says it took."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def python(changes, flags):
        result = seg(picture, LABELS, **SMALL, **changes)
        return result.label_map, result.settings["steps"]

    def encoded(changes, flags):
        import torch

        result = seg.encode(picture, dtype=torch.float32, **SMALL).segment(LABELS, **changes)
        return result.label_map, result.settings["steps"]

    def command(changes, flags):
        given = ["segment", str(picture), "-l", ",".join(LABELS), "-m", model, "-o", str(tmp_path / "out")]
        given += ["--device=cpu", "--resize=112", "--window=112", "--templates={}", "--overwrite", *flags]
        done = CliRunner().invoke(app, [part for part in given if part != "--overwrite"])
        assert done.exit_code == 0, done.output
        values = np.asarray(Image.open(tmp_path / "out/photo.labels.png")).astype(np.int16)
        steps = json.loads((tmp_path / "out/photo.json").read_text())["settings"]["steps"]
        return np.where(values == 255, -1, values), steps

    def pipeline(changes, flags):
        from transformers import pipeline

        pipe = pipeline("zero-shot-segmentation", model=model, output="semantic", device="cpu",
                        hypothesis_template="{}", resize_short_side=112, window=112)  # fmt: skip
        return pipe(str(picture), candidate_labels=LABELS, **changes)["label_map"], None

    return {"python": python, "encoded": encoded, "command": command, "pipeline": pipeline}


SAM = "sam(minimal_area=9)"
ASKED = [
    # settings in Python, flags of the command line, and the steps that they are
    ({"refine": True}, ["--refine"], "pamr, specks"),
    ({"refine": True}, ["--set", "refine=true"], "pamr, specks"),
    ({"refine": "pamr"}, ["--set", "refine=pamr"], "pamr"),
    ({"refine": "pamr(steps=2)"}, ["--set", "refine=pamr(steps=2)"], "pamr(steps=2)"),
    ({"refine": False}, ["--no-refine"], ""),
    ({"refine": None}, [], ""),
    ({"steps": "pamr, closing", "refine": False}, ["--steps", "pamr, closing", "--no-refine"], "closing"),
    ({"threshold": 0.34}, ["--threshold", "0.34"], "threshold(0.34)"),
    ({"threshold": 0.34, "refine": True}, ["--refine", "--threshold", "0.34"], "pamr, threshold(0.34), specks"),
]


@pytest.mark.parametrize("surface", ["encoded", "command", "pipeline"])
@pytest.mark.parametrize(("changes", "flags", "steps"), ASKED, ids=lambda value: str(value)[:40])
def test_short_forms_mean_the_same(ask, surface, changes, flags, steps):
    steps = list(sp.Settings(steps=steps).steps)
    expected, said = ask["python"](changes, flags)
    assert said == steps
    plain, _ = ask["python"]({"steps": steps}, [])
    np.testing.assert_array_equal(expected, plain)
    label_map, said = ask[surface](changes, flags)
    assert said in (None, steps)
    np.testing.assert_array_equal(label_map, expected)


def test_the_table_tells_the_forms_apart(ask):
    maps = [ask["python"](changes, [])[0].tobytes() for changes, _, _ in ASKED]
    assert len(set(maps)) >= 5


def test_refine_as_sam_is_the_step_sam_on_every_surface(model, monkeypatch):
    """Without weights to load: what each surface makes of the word."""
    expected = sp.Settings().changed(refine=SAM)
    assert expected.steps == (SAM,) == sp.Settings(steps=SAM).steps
    seen = []
    monkeypatch.setattr("sclip_plugin.cli.settings.Asked.settings", lambda self: seen.append(self.changes))
    CliRunner().invoke(app, ["segment", "x.png", "-l", "cat", "-m", model, "-o", "x", "--set", f"refine={SAM}"])
    assert seen and sp.Settings().changed(**seen[0]).steps == (SAM,)
