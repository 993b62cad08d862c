"""Outside models by name on every surface: command lines, the pipeline, encoded pictures, presets and evaluation."""

from __future__ import annotations

import json
import sys

import golden
import numpy as np
import pytest
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program as cli

LABELS = ["cat", "dog", "grass"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """CLIP, DINO and SAM, as save_pretrained leaves them."""
    root = tmp_path_factory.mktemp("models")
    golden.save_folder(root / "clip")
    for name in ("dino16", "sam"):
        transformers_model(name).save_pretrained(root / name)
    return root


@pytest.fixture
def options(folders):
    return {
        "proxyclip": {"guide": str(folders / "dino16")},
        "trident": {"guide": str(folders / "dino16"), "sam": str(folders / "sam")},
    }


@pytest.fixture
def refine(folders):
    return f"sam(model='{folders / 'sam'}', sam_iou_thresh=-1.0, minimal_area=1)"


@pytest.fixture
def sclip(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        assert not stop.value.code, captured.err
        return captured.out + captured.err

    return run


@pytest.fixture
def segmenter(folders, tmp_path):
    return sp.Segmenter.from_pretrained(str(folders / "clip"), cache_dir=False, templates="plain", device="cpu")


@pytest.mark.parametrize("method", ["proxyclip", "trident"])
def test_segment(sclip, folders, options, picture, refine, segmenter, tmp_path, method):
    sets = [f"--set={name}={value}" for name, value in options[method].items()]
    sclip("segment", picture, "-l", ",".join(LABELS), "-m", folders / "clip", "-o", tmp_path / "out", "--device=cpu",
          "--templates=plain", f"--method={method}", *sets, f"--set=refine={refine}")  # fmt: skip
    said = json.loads((tmp_path / "out/photo.json").read_text())["settings"]
    asked = sp.Settings().changed(method=method, refine=refine, **options[method])
    assert (said["method"], tuple(said["steps"])) == (asked.method, asked.steps)
    assert str(folders / "dino16") in said["method"] and str(folders / "sam") in said["steps"][0]
    expected = segmenter(picture, LABELS, method=method, refine=refine, **options[method])
    shown = np.asarray(Image.open(tmp_path / "out/photo.labels.png"))
    assert (shown == expected.label_map).mean() > 0.999


def test_compare_and_eval(sclip, folders, options, picture, tmp_path):
    texts = ["csa", *(sp.methods.make_method(method, given).as_text() for method, given in options.items())]
    report = sclip("compare", picture, "-l", ",".join(LABELS), "-m", folders / "clip", "-o", tmp_path / "c.png",
                   f"--methods={', '.join(texts)}", "--templates=plain", "--json", "--quiet")  # fmt: skip
    assert [row["method"] for row in json.loads(report)["methods"]] == texts
    for method in ("proxyclip", "trident"):
        sets = [f"--set={name}={value}" for name, value in options[method].items()]
        report = sclip("eval", "demo", "--scenes=1", f"--method={method}", *sets, "--device=cpu", "-o", tmp_path)
        assert method in report and "mIoU" in report


def test_a_preset_with_models_of_ones_own(folders, options, picture, refine):
    seg = sp.Segmenter.from_pretrained(
        str(folders / "clip"), device="cpu", preset="trident/cityscapes", cache_dir=False
    )
    result = seg(picture, refine=refine, templates="plain", resize_short_side=112, window=112, **options["trident"])
    assert "halves=2" in result.settings["method"] and len(result.labels) == 19


@pytest.mark.parametrize("method", ["proxyclip", "trident"])
def test_an_encoded_picture_is_written_and_read(segmenter, options, picture, refine, tmp_path, method):
    encoded = segmenter.encode(picture, method=method, **options[method])
    encoded.save(tmp_path / "a")
    read = sp.Encoded.load(tmp_path / "a", segmenter, picture=picture)
    assert read.plan == encoded.plan and read.settings == encoded.settings
    for changes in ({}, {"refine": refine}):
        ours, theirs = (e.segment(LABELS, **changes) for e in (read, encoded))
        np.testing.assert_array_equal(ours.label_map, theirs.label_map)
    by_module = segmenter.encode(picture, method="proxyclip", guide=transformers_model("dino16"))
    with pytest.raises(sp.SclipError, match="name the method, and an outside model by its name or folder"):
        by_module.save(tmp_path / "b")


@pytest.mark.parametrize("method", ["proxyclip", "trident"])
def test_the_pipeline(folders, options, picture, refine, segmenter, method):
    from transformers import pipeline

    pipe = pipeline("zero-shot-segmentation", model=str(folders / "clip"), hypothesis_template="{}", method=method,
                    output="semantic", device="cpu", **options[method])  # fmt: skip
    for given in (None, refine):
        found = pipe(str(picture), candidate_labels=LABELS, **({} if given is None else {"refine": given}))
        changes = {"templates": "{}", "method": method, "refine": given, **options[method]}
        expected = segmenter(picture, LABELS, **changes)
        assert (found["label_map"] == expected.label_map).mean() > 0.999
