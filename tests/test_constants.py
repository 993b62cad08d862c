"""Constants that decide what comes out, each against a value worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

import sclip_plugin as sp
from sclip_plugin.errors import NotFiniteError, ShapeError
from sclip_plugin.imaging.resampling import normalise
from sclip_plugin.imaging.tiles import TiledMap


def square() -> sp.Segmentation:
    """A picture of 20 x 10 pixels with one square, columns 4 to 7 and rows 2 to 5."""
    labels = np.full((10, 20), -1)
    labels[2:6, 4:8] = 0
    return sp.Segmentation(["cat"], labels, Image.new("RGB", (20, 10)))


def test_yolo_points_lie_a_quarter_inside_their_pixels(tmp_path):
    pytest.importorskip("cv2")
    square().export(tmp_path, "yolo", name="a")
    values = np.array((tmp_path / "labels" / "a.txt").read_text().split()[1:], float).reshape(-1, 2) * (20, 10)
    np.testing.assert_allclose(values.min(axis=0), (4.25, 2.25), atol=1e-4)
    np.testing.assert_allclose(values.max(axis=0), (7.25, 5.25), atol=1e-4)


def test_labelme_points_lie_in_the_middle_of_their_pixels(tmp_path):
    import json

    pytest.importorskip("cv2")
    (path,) = (path for path in square().export(tmp_path, "labelme", name="a") if path.suffix == ".json")
    points = np.array(json.loads(path.read_text())["shapes"][0]["points"])
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [(4.5, 2.5), (7.5, 5.5)])


def test_a_words_place_is_the_highest_quarter_of_its_heat():
    pytest.importorskip("scipy")
    from sclip_plugin.index.results import Hit

    cosines = np.array([[0.0], [0.6], [0.8], [1.0]], np.float32)
    hit = Hit("a", Path("a"), 1.0, {"cat": 1.0}, (8, 32), np.array([[0, 1, 2, 3]]), cosines)
    heat = hit.heat("cat")
    np.testing.assert_array_equal(hit.mask("cat"), heat >= 0.75)
    assert 0.75 < heat[0, hit.box[0] + 1] and heat[0, hit.box[0] - 1] < 0.75 and hit.box[2] == 32


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", device="cpu", templates="plain")


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("view", ["crop", "blur"])
def test_what_the_image_embedding_sees_of_a_mask(segmenter, view):
    """A mask of 40 x 30 pixels: its crop has a tenth of 40 on each side, and blur a radius of a fiftieth of 100."""
    picture = noise(6, 10).resize((100, 60), Image.Resampling.NEAREST)
    mask = np.zeros((1, 60, 100), bool)
    mask[0, 15:45, 30:70] = True
    encoded = segmenter.encode(picture, dtype=torch.float32)
    found = encoded.classify(mask, ["cat", "dog"], view=view, weight=1.0, logit_scale=40.0)
    if view == "crop":
        shown = picture.crop((26, 11, 74, 49))
    else:
        shown = Image.composite(picture, picture.filter(ImageFilter.GaussianBlur(2)), Image.fromarray(mask[0]))
    tower = segmenter.tower
    side = tower.native_grid[0] * tower.patch_size[0]
    pixels = np.asarray(shown.resize((side, side), Image.Resampling.BICUBIC)).copy()
    encoder = segmenter.encoder
    seen = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], encoder.mean, encoder.std)
    with torch.inference_mode():
        _, text = segmenter.text_embeddings(["cat", "dog"])
        expected = (40 * encoder.embed_pixels(seen) @ text.T).softmax(dim=1)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-4)


def test_the_image_embedding_is_of_an_antialiased_picture(segmenter):
    lines = np.zeros((300, 300, 3), np.uint8)
    lines[:, ::3] = 255
    encoded = segmenter.encode(Image.fromarray(lines), dtype=torch.float32, resize_short_side=0)
    tower, encoder = segmenter.tower, segmenter.encoder
    side = tower.native_grid[0] * tower.patch_size[0]
    pixels = normalise(torch.from_numpy(lines).permute(2, 0, 1)[None], encoder.mean, encoder.std)
    with torch.inference_mode():
        smooth, rough = (
            encoder.embed_pixels(F.interpolate(pixels, (side, side), mode="bilinear", antialias=antialias))[0]
            for antialias in (True, False)
        )
    assert float(encoded.image @ smooth) > 1 - 1e-5 > float(rough @ smooth)


@dataclass(frozen=True, kw_only=True)
class Broken(sp.Step):
    on = "patches"
    what: str = "nan"

    def __call__(self, given):
        return given.scores[..., :1] if self.what == "shape" else given.scores * float("nan")


@dataclass(frozen=True, kw_only=True)
class BrokenPixels(sp.Step):
    on = "pixels"

    def __call__(self, given):
        return TiledMap(given.at(given.size).full()[..., :1])


@dataclass(frozen=True, kw_only=True)
class BrokenLabels(sp.Step):
    on = "labels"

    def __call__(self, given):
        return given.changed(labels=given.labels[:1])


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Broken(), NotFiniteError),
        (Broken(what="shape"), NotFiniteError),
        (BrokenPixels(), ShapeError),
        (BrokenLabels(), ShapeError),
    ],
)
def test_a_step_that_gives_what_it_should_not_is_refused(segmenter, step, error):
    with pytest.raises(error):
        segmenter(noise(40, 60), ["cat", "dog"], steps=[step])
