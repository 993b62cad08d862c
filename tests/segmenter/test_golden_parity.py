"""End to end against the published code: text bank, stitched logits, class scores and label maps."""

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.imaging.refine import pamr
from sclip_plugin.segment.segmenter import Segmenter

LABELS = [
    ["sky", "wall", "tree", "grass", "road"],
    "cat",
    "dog",
    ["person", "person in shirt", "person in dress"],
    "potted plant",
]
# golden file, segmentor, picture, settings, logit scale
SEGMENTORS = [
    ("SCLIP", "segmentor", "scene", {}, 40),
    ("SCLIP", "segmentor_small", "small", {}, 40),
    ("SCLIP", "segmentor_thresholds", "scene", {"steps": "benchmark(prob=0.3, area=0.1)"}, 65),
    ("SCLIP", "segmentor_area", "scene", {"steps": "benchmark(prob=0.2, area=0.35)"}, 20),
    ("SCLIP", "segmentor_pamr", "scene", {"steps": "pamr(10)"}, 40),
    ("NACLIP", "segmentor_pamr", "scene", {"method": "naclip", "steps": "pamr(10), normalize"}, 40),
]


@pytest.fixture(scope="module", params=["transformers", "open_clip", "open_clip_custom_text", "openai"])
def segmenter(request) -> Segmenter:
    return Segmenter(
        golden.model(request.param), golden.tokenizer_of(request.param), window=112, stride=56, cache_dir=False
    )


def test_text_bank(segmenter):
    vocabulary, bank = segmenter.text_embeddings(LABELS)
    assert vocabulary.class_of_name == (0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 4)
    assert golden.relative_difference(bank, golden.arrays("SCLIP")["text_bank"]) < 1e-5
    assert golden.relative_difference(bank, golden.arrays("NACLIP")["text_bank"]) < 1e-5


@pytest.mark.parametrize(("file", "name", "picture", "settings", "scale"), SEGMENTORS, ids=lambda v: str(v)[:24])
def test_segmentor(segmenter, file, name, picture, settings, scale):
    expected = golden.arrays(file)
    pixels = golden.arrays("inputs")[picture][0]
    size = (pixels.shape[1] + 21, pixels.shape[2] + 33)
    result = segmenter(golden.prepared(pixels, size), LABELS, logit_scale=scale, **settings)

    logits = expected[f"{name}.slide_logits.every4"][0]
    if file == "SCLIP":
        assert (
            golden.relative_difference(golden.every_fourth(result._scores.maps.full().permute(2, 0, 1)), logits) < 1e-5
        )
    else:  # stored before PAMR, at the size of the scene
        plain = segmenter(golden.prepared(pixels), LABELS, method=settings["method"])
        assert (
            golden.relative_difference(golden.every_fourth(plain._scores.maps.full().permute(2, 0, 1)), logits) < 1e-5
        )
    scores = golden.every_fourth(torch.from_numpy(result.scores))
    assert golden.relative_difference(scores, expected[f"{name}.probs.scale{scale}.every4"]) < 1e-5
    labels = expected[f"{name}.labels.scale{scale}"][0].numpy()
    assert (result.label_map == labels).mean() >= 0.9999


def test_pamr():
    inputs = golden.arrays("inputs")
    refined = pamr(inputs["pamr.mask"], inputs["pamr.image"], steps=10, dilations=(8, 16))
    assert golden.relative_difference(refined, golden.arrays("SCLIP")["pamr.out"]) < 1e-5


def test_all_towers_give_the_same_dense_features():
    pixels = golden.arrays("inputs")["pixels.112x160"]
    features = {name: sp.dense_features(golden.model(name), pixels) for name in golden.FRAMEWORKS}
    for name, given in features.items():
        assert golden.relative_difference(given, features["transformers"]) < 1e-5, name
