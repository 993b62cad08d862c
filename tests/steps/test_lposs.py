"""LPOSS and LPOSS+: the published arrays, step by step and as whole pictures."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.defaults import CLIP_MEAN, CLIP_STD
from sclip_plugin.errors import ModelLoadError, SettingError
from sclip_plugin.guides import as_guide
from sclip_plugin.steps.lposs import LPOSS, LPOSSPlus, conjugate_gradients, lab, places

CLASSES = [["sky", "wall", "tree", "grass", "road"], "cat", "dog", "person", "potted plant"]
ARRAYS = golden.arrays("LPOSS")
DINO = transformers_model("lposs")
MASKCLIP = {
    "method": "maskclip(residual=True, ffn=True, position_resize='size')",
    "padding": "black",
}
# Windows of the published run, its neighbours, and the picture of `inputs`.
RUNS = {"lposs": ("scene", 112, 56, 400), "lposs_small": ("small", 112, 56, 60), "lposs_whole": ("small", 0, 1, 40)}


MEAN, STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))


def plain(name: str) -> torch.Tensor:
    """A picture of `inputs` as the published run had it, (3, H, W) of values 0 to 1."""
    return (golden.arrays("inputs")[name][0] * STD + MEAN).clamp(0, 1)


def normalised(name: str) -> torch.Tensor:
    return (plain(name) - MEAN) / STD


@pytest.fixture(scope="module")
def segmenter():
    segmenter = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False)
    segmenter.text_bank.embed_vocabulary = lambda vocabulary, templates: ARRAYS["text_bank"]
    return segmenter


def logits_of(result) -> torch.Tensor:
    """The scores of classes before the softmax, (1, classes, H, W): after the step merge those of their first names."""
    first = [list(result._scores.vocabulary.class_of_name).index(c) for c in range(len(result.labels))]
    return result._scores.maps.full()[..., first].permute(2, 0, 1)[None]


def test_the_outside_model_s_values():
    seen = as_guide(DINO, device=torch.device("cpu"), dtype=torch.float32).look(plain("pixels.112x112")[None])
    values = torch.nn.functional.normalize(seen.heads("v").transpose(1, 2).flatten(2), dim=-1)
    golden.assert_equal(values[0].unflatten(0, seen.grid), ARRAYS["dino.112x112"][0])


@pytest.mark.parametrize("name", RUNS)
def test_pictures_are_the_published_ones(segmenter, name: str, monkeypatch):
    picture, window, stride, k = RUNS[name]
    pixels = normalised(picture)
    seen = []
    original = LPOSS.__call__
    monkeypatch.setattr(
        LPOSS, "__call__", lambda self, given: seen.append((given, original(self, given))) or seen[-1][1]
    )
    shown = {"window": window, "stride": stride} if window else {"window": 0}
    size = (pixels.shape[1] + 21, pixels.shape[2] + 33)
    step = LPOSS(guide=DINO, k=k, merge_names=not window)
    result = segmenter(golden.prepared(pixels, size), CLASSES, **MASKCLIP, **shown, steps=[step, "merge"])
    ((given, _),) = seen
    golden.assert_equal(given.scores.flatten(0, 2), ARRAYS[f"{name}.before"])
    step = LPOSS(guide=DINO, k=k)
    graph = step.graph(step.values(given), places(given)).to_dense()
    golden.assert_equal(graph[:40].float(), ARRAYS[f"{name}.normalised_graph.rows40"])
    golden.assert_equal(original(step, given).flatten(0, 2), ARRAYS[f"{name}.after"])
    same = torch.from_numpy(result.label_map) == ARRAYS[f"{name}.labels"][0]
    assert same.float().mean() >= 0.9999
    golden.assert_equal(golden.every_fourth(logits_of(result)), ARRAYS[f"{name}.logits.every4"])


def test_pixels_are_the_published_ones(segmenter):
    pixels = normalised("small")
    size = (pixels.shape[1] + 21, pixels.shape[2] + 33)
    steps = [LPOSS(guide=DINO, k=60), "lposs_plus", "merge"]
    result = segmenter(golden.prepared(pixels, size), CLASSES, **MASKCLIP, window=112, stride=56, steps=steps)
    golden.assert_equal(golden.every_fourth(logits_of(result)), ARRAYS["lposs_small.plus.logits.every4"])
    same = torch.from_numpy(result.label_map) == ARRAYS["lposs_small.plus.labels"][0]
    assert same.float().mean() >= 0.9999


@pytest.mark.parametrize("window", [112, 0])
def test_names_are_merged_before_the_last_resize(segmenter, window):
    """By hand: windows at the size they were cut from, the best name of each class there, then the last resize."""
    pixels, size = normalised("small"), (61, 143)
    step = LPOSS(guide=DINO, k=60)
    shown = {**MASKCLIP, "window": window, "stride": 56 if window else None}
    given = golden.prepared(pixels, size)
    names = segmenter(given, CLASSES, **shown, steps=[step])._scores.maps
    cut = segmenter(golden.prepared(pixels), CLASSES, **shown, steps=[step])._scores.maps
    whole = cut.full().permute(2, 0, 1)  # at the size that windows were cut from
    of_class = torch.tensor([0] * 5 + [1, 2, 3, 4])
    best = torch.stack([whole[of_class == c].amax(dim=0) for c in range(5)])
    expected = torch.nn.functional.interpolate(best[None], size=size, mode="bilinear", align_corners=False)
    merged = segmenter(given, CLASSES, **shown, steps=[step, "merge"])
    golden.assert_equal(logits_of(merged), expected)
    assert (merged.label_map == expected[0].argmax(dim=0).numpy()).mean() > 0.9999
    if not window:  # Merged behind the last resize, scores are others where the best name changes: in one window here.
        after = torch.stack([names.full()[..., of_class == c].amax(dim=-1) for c in range(5)])[None]
        assert golden.relative_difference(after, expected) > 1e-5
    # All names of a class have one score, whichever wins.
    of_names = merged._scores.maps.full()
    assert (of_names[..., :5] == of_names[..., :1]).all()


def test_conjugate_gradients_solve_each_name_by_itself():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=generator, dtype=torch.double)
    matrix = matrix @ matrix.T / 30 + torch.eye(30)
    right = torch.randn(30, 4, generator=generator, dtype=torch.double)
    right[:, 2] = 0
    solved = conjugate_gradients(lambda z: matrix @ z, right, 60)
    assert torch.allclose(matrix @ solved, right, atol=1e-5)
    few = conjugate_gradients(lambda z: matrix @ z, right, 3)
    alone = torch.cat([conjugate_gradients(lambda z: matrix @ z, right[:, [i]], 3) for i in range(4)], dim=1)
    assert torch.allclose(few, alone) and not torch.allclose(few, solved, atol=1e-3)


def test_pixels_in_parts_of_names_are_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores, pixels = torch.rand(14, 17, 5, generator=generator), torch.rand(3, 14, 17, generator=generator) * 0.1
    whole = LPOSSPlus().of_pixels(scores, pixels)
    monkeypatch.setattr("sclip_plugin.steps.lposs.VALUES_AT_ONCE", 14 * 17 * 2)
    assert torch.allclose(LPOSSPlus().of_pixels(scores, pixels), whole)
    # A plain matrix says the same.
    colours = lab(pixels).flatten(1).T
    y, x = np.mgrid[:14, :17].reshape(2, -1)
    near = (abs(y[:, None] - y) <= 6) & (abs(x[:, None] - x) <= 6) & ~np.eye(14 * 17, dtype=bool)
    W = torch.exp(-torch.cdist(colours, colours) / 0.01).double() * torch.from_numpy(near)
    scale = W.sum(dim=1) ** -0.5
    S = scale[:, None] * W * scale
    expected = conjugate_gradients(lambda z: z - 0.95 * S @ z, scores.flatten(0, 1).double(), 10)
    assert torch.allclose(whole.flatten(0, 1).double(), expected, atol=1e-5)


PLUS = [LPOSS(guide=DINO), LPOSSPlus()]


@pytest.mark.parametrize("steps", [PLUS[:1], PLUS], ids=["lposs", "lposs_plus"])
@pytest.mark.parametrize("size", [(1, 1), (40, 17), (60, 150)])
def test_any_picture_and_any_method(steps, size):
    segmenter = sp.Segmenter(golden.model("open_clip"), golden.tokenizer(), cache_dir=False, templates="plain")
    for picture in (Image.new("RGB", size[::-1], "grey"), Image.effect_noise(size[::-1], 90).convert("RGB")):
        result = segmenter(picture, ["cat", "dog"], steps=steps, resize_short_side=0)
        assert result.label_map.shape == size and np.isfinite(result.scores).all()


def test_an_encoded_picture_answers_too(tmp_path):
    segmenter = sp.Segmenter(golden.model("open_clip"), golden.tokenizer(), cache_dir=False, templates="plain")
    picture = Image.effect_noise((150, 120), 90).convert("RGB")
    encoded = segmenter.encode(picture, dtype=torch.float32)
    for steps in (PLUS[:1], PLUS):
        np.testing.assert_array_equal(
            encoded.segment(["cat", "dog"], steps=steps).label_map,
            segmenter(picture, ["cat", "dog"], steps=steps).label_map,
        )
    encoded.save(tmp_path / "a")
    with pytest.raises(SettingError, match="picture="):
        sp.Encoded.load(tmp_path / "a", segmenter).segment(["cat"], steps=[LPOSS(guide=DINO)])
    with pytest.raises(ModelLoadError, match="no/such"):
        encoded.segment(["cat"], steps="lposs(guide='no/such')")
