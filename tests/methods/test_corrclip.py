"""CorrCLIP, both versions: the published arrays, and where the published code says nothing."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corrclip_golden import CLASSES, DINO, FIRST, SECOND, SYNONYMS, Given, Saved
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.dense import dense_and_embedding
from sclip_plugin.errors import SettingError, UnsupportedModelError
from sclip_plugin.methods.corrclip import CorrCLIP, merged, on_grid, region_attention
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.running import WholePicture, Window

pytestmark = pytest.mark.usefixtures("without_gradients")

KINDS = ("holes", "full", "one", "none")
CONFIGS = [(size, kind) for size in ("112x112", "144x112") for kind in KINDS]


def picture_of(size: str) -> torch.Tensor:
    inputs = golden.arrays("inputs")
    return inputs[f"pixels.{size}"][:1]


def windows_of(pixels: torch.Tensor, ids: torch.Tensor) -> list[Window]:
    whole = WholePicture(pixels[0], regions=lambda: ids.numpy().astype(np.int32))
    return [Window(whole, (0, 0, *pixels.shape[-2:]))]


@pytest.mark.parametrize("framework", ["transformers", "open_clip", "timm", "openai"])
def test_one_window_is_the_published_one(framework):
    tower = find_tower(golden.model(framework))
    for size, kind in CONFIGS if framework == "transformers" else CONFIGS[:1]:
        pixels, name = picture_of(size), f"corrclip.{size}.{kind}"
        windows = windows_of(pixels, FIRST[f"{name}.mask"])
        features, _ = dense_and_embedding(tower, pixels, CorrCLIP(guide=DINO), windows, embedding=False)
        golden.assert_equal(features.flatten(2).mT, FIRST[f"{name}.features"])
        if f"{name}.logits.every4" in FIRST:
            cosines = torch.einsum("bdhw,kd->bkhw", F.normalize(features, dim=1), FIRST["text_bank"])
            logits = F.interpolate(cosines, size=pixels.shape[-2:], mode="bilinear")
            golden.assert_equal(golden.every_fourth(logits), FIRST[f"{name}.logits.every4"])


@pytest.mark.parametrize("size", ["112x112", "144x112"])
def test_one_window_of_the_second_version_is_the_published_one(size, monkeypatch):
    tower, pixels, name = find_tower(golden.model()), picture_of(size), f"corrclipv2.{size}"
    # The published arrays were made of a window's features as they are, without making unit vectors of its pixels.
    maps = F.interpolate(SECOND[f"{name}.vfm_low"], size=pixels.shape[-2:], mode="bicubic") + 0.3
    monkeypatch.setattr(
        CorrCLIP,
        "of_picture",
        lambda self, context, grid: F.interpolate(maps, size=grid, mode="bilinear").flatten(2).mT,
    )
    method = CorrCLIP(guide=Saved(maps), correlation="picture", merge=None)
    windows = windows_of(pixels, SECOND[f"{name}.mask"])
    features, _ = dense_and_embedding(tower, pixels, method, windows, embedding=False)
    golden.assert_equal(features.flatten(2).mT, SECOND[f"{name}.features"])


def segmented(arrays, name: str, classes, bank: str, method: CorrCLIP, monkeypatch, **settings):
    monkeypatch.setattr("sclip_plugin.text.bank.TextBank.embed_vocabulary", lambda *given: arrays[bank])
    pixels = golden.arrays("inputs")["small" if "_" in name else "scene"][0]
    size = tuple(arrays[f"{name}.mask"].shape)
    seg = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, window=112, stride=56)
    masks = Given(name=f"{1 if arrays is FIRST else 2}:{name}")
    picture = golden.prepared(pixels, size, Image.new("RGB", size[::-1]))
    return seg(picture, classes, method=method, masks=masks, **{"steps": "vote", **settings})


@pytest.mark.parametrize("name", ["segmentor", "segmentor_small"])
def test_pictures_are_the_published_ones(name, monkeypatch):
    for setting, changes in (
        ("scale40", {"logit_scale": 40}),
        ("scale65.thr0.3", {"logit_scale": 65, "steps": "benchmark(prob=0.3), vote"}),
    ):
        result = segmented(FIRST, name, CLASSES, "text_bank", CorrCLIP(guide=DINO), monkeypatch, **changes)
        logits = result._scores.maps.full().permute(2, 0, 1)
        golden.assert_equal(golden.every_fourth(logits)[None], FIRST[f"{name}.slide_logits.every4"])
        golden.assert_equal(
            golden.every_fourth(torch.from_numpy(result.scores)), FIRST[f"{name}.probs.{setting}.every4"]
        )
        assert (torch.from_numpy(result.label_map) == FIRST[f"{name}.labels.{setting}"][0]).all()


def test_a_picture_of_the_second_version_is_the_published_one(monkeypatch):
    name = "segmentor_no_bank"
    method = CorrCLIP(guide=Saved(SECOND[f"{name}.vfm"]), correlation="picture", merge=None)
    result = segmented(SECOND, name, SYNONYMS, "text_bank.synonyms", method, monkeypatch, logit_scale=40)
    logits = result._scores.maps.full().permute(2, 0, 1)
    golden.assert_equal(golden.every_fourth(logits)[None], SECOND[f"{name}.slide_logits.every4"])
    scores = golden.every_fourth(torch.from_numpy(result.scores))
    golden.assert_equal(scores, SECOND[f"{name}.probs.scale40.every4"])
    assert (torch.from_numpy(result.label_map) == SECOND[f"{name}.labels.scale40"][0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_merged_and_attend_as_published(kind):
    features = FIRST["dino.112x112"][0]
    ids = merged(on_grid(FIRST[f"corrclip.112x112.{kind}.mask"].float(), (14, 14)), features, 0.2)
    attention = region_attention(features, torch.eye(196), ids, 1.0, 4.0)
    golden.assert_equal(attention, FIRST[f"corrclip.112x112.{kind}.attention"])


def test_components_are_transitive():
    """Three regions at angles of 0, 35 and 70 degrees: neighbours are within 0.2 of each other, the outer two not."""
    angles = torch.tensor([90.0, 0, 35, 70, 160]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    ids = torch.tensor([0.0, 3, 4, 7, 9])
    assert merged(ids, features, 0.2).tolist() == [0, 1, 1, 1, 2]
    assert merged(ids, features, 0.1).tolist() == [0, 1, 2, 3, 4]
    assert merged(ids[:2], features[:2], 2.0).tolist() == [0, 3]


def test_a_batch_of_windows_gives_what_each_gives_and_the_stream_is_clip_s_own():
    tower, pair = find_tower(golden.model()), golden.arrays("inputs")["pixels.112x112"]
    windows = [
        windows_of(pair[i : i + 1], FIRST[f"corrclip.112x112.{kind}.mask"])[0] for i, kind in ((0, "holes"), (1, "one"))
    ]
    method = CorrCLIP(guide=DINO)
    together, embedded = dense_and_embedding(tower, pair, method, windows)
    for i in range(2):
        golden.assert_equal(together[[i]], dense_and_embedding(tower, pair[[i]], method, windows[i : i + 1])[0])
    assert torch.equal(embedded, dense_and_embedding(tower, pair, sp.methods.make_method("vanilla"))[1])


def test_without_masks_and_without_cls():
    from .models import pixels, tower_without_cls

    none = sp.dense_features(golden.model(), picture_of("112x112"), "corrclip", guide=DINO)
    golden.assert_equal(none.flatten(2).mT, FIRST["corrclip.112x112.none.features"])
    features = sp.dense_features(tower_without_cls(), pixels(40, 24, batch=2), "corrclip", guide=DINO)
    assert features.shape == (2, 64, 5, 3) and features.isfinite().all()


@pytest.mark.parametrize("correlation", ["window", "picture"])
@pytest.mark.parametrize("size", [(1, 1), (40, 17), (130, 150)])
def test_any_picture(correlation, size):
    seg = sp.Segmenter(golden.model("open_clip"), golden.tokenizer(), cache_dir=False, templates="plain")
    for picture in (Image.new("RGB", size[::-1], "grey"), Image.effect_noise(size[::-1], 90).convert("RGB")):
        result = seg(
            picture, ["cat", "dog"], method=CorrCLIP(guide=DINO, correlation=correlation), masks="slic(segments=9)",
            resize_short_side=0, window=64,
        )  # fmt: skip
        assert result.label_map.shape == size and np.isfinite(result.scores).all()


def test_an_encoded_picture_keeps_to_its_masks():
    seg = sp.Segmenter(golden.model("open_clip"), golden.tokenizer(), cache_dir=False, templates="plain")
    picture = Image.effect_noise((150, 130), 90).convert("RGB")
    settings = {"method": CorrCLIP(guide=DINO), "masks": "slic(segments=9)", "window": 64}
    encoded = seg.encode(picture, dtype=torch.float32, **settings)
    np.testing.assert_array_equal(
        encoded.segment(["cat", "dog"]).label_map, seg(picture, ["cat", "dog"], **settings).label_map
    )
    with pytest.raises(SettingError, match="masks='slic'"):
        encoded.segment(["cat"], masks="slic")


def test_in_place_is_refused():
    with pytest.raises(UnsupportedModelError, match="dense_features"):
        sp.apply(golden.model(), "corrclip", guide=DINO)
