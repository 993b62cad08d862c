"""Every setting, on every surface, gives what the segmenter gives."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.settings import Settings
from sclip_plugin.steps.short import SHORT_FORMS

SETTINGS = {
    "method": {"method": "naclip(std=3.0)"},
    "resize_short_side": {"resize_short_side": 120},
    "resize_long_side": {"resize_long_side": 150},
    "window": {"window": 64},
    "stride": {"stride": 40},
    "padding": {"padding": "black", "window": 60, "stride": 30},
    "stitched": {"stitched": True},
    "views": {"views": 0.6},
    "masks": {"masks": "slic(segments=30)", "steps": "vote"},
    "templates": {"templates": ("a drawing of a {}.",)},
    "background": {"background": True},
    "ignore": {"ignore": ("grass",)},
    "logit_scale": {"logit_scale": 15.0, "threshold": 0.5},
    "steps": {"steps": "pamr(steps=2), benchmark(prob=0.4), closing(3)"},
    "threshold": {"threshold": 0.6},
    "refine": {"refine": True},
    "present": {"present": 0.9999},
}


def test_every_setting_is_in_the_table():
    assert set(SETTINGS) == {*Settings.__dataclass_fields__, *SHORT_FORMS}


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def scene():
    return sp.draw_scene(seed=5)


@pytest.fixture(scope="module")
def file(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    scene.picture.save(path)
    return path


@pytest.fixture(scope="module")
def pipe():
    pipeline = pytest.importorskip("transformers").pipeline
    return pipeline("zero-shot-segmentation", model=str(sp.demo_model()), device="cpu")


def of_an_encoded_picture(given):
    import torch

    segmenter, path, labels, changes = (given[name] for name in ("segmenter", "file", "labels", "changes"))
    return segmenter.encode(path, dtype=torch.float32, **changes).segment(labels).label_map


def of_a_stream_of_prepared_pictures(given):
    prepared = given["segmenter"].prepare(given["file"], **given["changes"])
    (result,) = given["segmenter"].stream([prepared], given["labels"], **given["changes"])
    return result.label_map


def of_the_segmenters_own_settings(given):
    return sp.Segmenter.from_pretrained("demo", device="cpu", **given["changes"])(
        given["file"], given["labels"]
    ).label_map


def of_the_pipeline(given):
    found = given["pipe"](str(given["file"]), candidate_labels=given["labels"], output="semantic", **given["changes"])
    return found["label_map"]


def of_a_row_on_ray(given):
    pytest.importorskip("pycocotools")
    from sclip_plugin.integrations.ray.rows import Rows, Work

    own = sp.Segmenter.from_pretrained("demo", device="cpu", **given["changes"])
    rows = Rows(Work.of(own, "cpu", given["labels"], model="demo", preset=None, dtype=None))
    return rows.segmenter(given["file"], given["labels"]).label_map


def of_the_command_line(given):
    flags = []
    for name, value in given["changes"].items():
        flag = {"resize_short_side": "resize"}.get(name, name.replace("_", "-"))
        if isinstance(value, bool):
            flags.append(f"--{flag}")
        else:
            flags += [f"--{flag}", value[0] if isinstance(value, tuple) else str(value)]
    out = given["tmp_path"] / "out"
    arguments = ["sclip", "segment", str(given["file"]), "-l", ",".join(given["labels"]), "-m", "demo", "-o", str(out)]
    given["monkeypatch"].setattr(sys, "argv", [*arguments, "--quiet", *flags])
    with pytest.raises(SystemExit) as stop:
        program.run()
    assert not stop.value.code
    indices = np.asarray(Image.open(out / "scene.labels.png")).astype(int)
    return np.where(indices == 255, -1, indices)


SURFACES = (
    of_an_encoded_picture, of_a_stream_of_prepared_pictures, of_the_segmenters_own_settings, of_the_pipeline,
    of_a_row_on_ray, of_the_command_line,
)  # fmt: skip


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.__name__.removeprefix("of_"))
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_on_a_surface(name, surface, segmenter, scene, file, tmp_path, monkeypatch, request):
    given = {
        "segmenter": segmenter, "labels": list(scene.labels), "changes": SETTINGS[name], "file": file,
        "tmp_path": tmp_path, "monkeypatch": monkeypatch,
        "pipe": request.getfixturevalue("pipe") if surface is of_the_pipeline else None,
    }  # fmt: skip
    expected = segmenter(file, given["labels"], **SETTINGS[name])
    np.testing.assert_array_equal(surface(given), expected.label_map)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("stride",)])
def test_each_setting_of_the_table_changes_something(name, segmenter, scene):
    """Else its row would say nothing."""
    plain = segmenter(scene.picture, list(scene.labels))
    changed = segmenter(scene.picture, list(scene.labels), **SETTINGS[name])
    same = plain.label_map.shape == changed.label_map.shape and np.array_equal(plain.label_map, changed.label_map)
    assert not same or not np.allclose(plain.scores, changed.scores[: len(plain.scores)])


def test_a_folder_of_masks_is_found_by_the_pictures_path(pipe, segmenter, scene, file, tmp_path):
    Image.fromarray((scene.label_map + 1).astype(np.uint8)).save(tmp_path / "scene.png")
    how = {"masks": str(tmp_path), "steps": "vote"}
    expected = segmenter(file, list(scene.labels), **how)
    found = pipe(str(file), candidate_labels=list(scene.labels), output="semantic", **how)
    np.testing.assert_array_equal(found["label_map"], expected.label_map)
    assert not np.array_equal(expected.label_map, segmenter(file, list(scene.labels)).label_map)
