"""What is evaluated is what the segmenter does with the same preset."""

import numpy as np
import pytest
import sam3_golden
from PIL import Image

from sclip_plugin.errors import SettingError, UnknownNameError
from sclip_plugin.evaluation.prediction import SegmenterPrediction
from sclip_plugin.protocols import list_presets, load_benchmark, load_preset

QUICK = {"templates": "plain", "window": 112, "stride": 56, "resize_short_side": 112}


@pytest.fixture(scope="module")
def tokenizer():
    return pytest.importorskip("open_clip").get_tokenizer("ViT-B-16")


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_gives_the_segmenters_own_settings(tiny_segmenter, tokenizer, name):
    from sclip_plugin.segment.segmenter import Segmenter

    if load_preset(name).settings.method_name == "sam3":
        tokenizer = sam3_golden.processor()
        tiny_segmenter = Segmenter(sam3_golden.tiny(), tokenizer)
    predict = SegmenterPrediction(tiny_segmenter, load_preset(name))
    ours = predict.settings("model")
    theirs = Segmenter(tiny_segmenter.model, tokenizer, preset=name, cache_dir=False)
    for key, value in theirs.settings.plain().items():
        assert ours[key] == value, key
    # Classes are shown by the benchmark's names for them, and stand for the same words.
    assert theirs.vocabulary.labels == load_benchmark(name.partition("/")[2]).class_names
    assert theirs.vocabulary.names == tuple(word for names in load_preset(name).classes for word in names)


def test_label_maps_are_the_segmenters(tiny_segmenter):
    predict = SegmenterPrediction(tiny_segmenter, load_preset("sclip/voc21"), QUICK)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    (label_map,) = predict([Image.fromarray(pixels)])
    preset = load_preset("sclip/voc21")
    result = tiny_segmenter(
        Image.fromarray(pixels), [list(names) for names in preset.classes],
        logit_scale=65, steps="benchmark(prob=0.1, area=0.1)", **QUICK,
    )  # fmt: skip
    assert label_map.shape == (90, 130)
    np.testing.assert_array_equal(label_map, result.label_map)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"logit_scal": 1}, UnknownNameError, "unknown setting 'logit_scal'"),
        ({"std": 1}, UnknownNameError, "unknown setting 'std'"),
        ({"method": "naclip"}, SettingError, "--method"),
        ({"logit_scale": "abc"}, SettingError, "expected a number above 0"),
    ],
)
def test_a_change_that_cannot_be_is_refused(tiny_segmenter, change, error, says):
    with pytest.raises(error, match=says):
        SegmenterPrediction(tiny_segmenter, load_preset("sclip/voc21"), change)


def test_other_templates_are_another_identity(tiny_segmenter):
    preset = load_preset("sclip/voc21")
    four = [f"{word} {{}}" for word in ("a", "the", "one", "this")]
    others = [f"{word} {{}}" for word in ("a", "the", "one", "that")]
    first, second = (
        SegmenterPrediction(tiny_segmenter, preset, {"templates": texts}).settings("m") for texts in (four, others)
    )
    assert first["templates"] == second["templates"] == "4 templates"
    assert first["identity"] != second["identity"]


def test_other_weights_of_the_same_name_are_told_apart(tiny_segmenter):
    import copy
    import dataclasses

    import torch

    settings = SegmenterPrediction(tiny_segmenter, load_preset("sclip/voc21")).settings("model")
    assert settings == SegmenterPrediction(tiny_segmenter, load_preset("sclip/voc21")).settings("model")
    other = copy.copy(tiny_segmenter)
    other.chain = dataclasses.replace(tiny_segmenter.chain, model=copy.deepcopy(tiny_segmenter.model))
    with torch.no_grad():
        other.model.visual_projection.weight.add_(1e-3)
    changed = SegmenterPrediction(other, load_preset("sclip/voc21")).settings("model")
    assert [key for key in settings if settings[key] != changed[key]] == ["identity"]
