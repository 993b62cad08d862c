"""Facts about the segmenter and what it returns."""

import json
from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.device import CPU, fastest_dtype
from sclip_plugin.errors import LabelError, PictureError, UnknownNameError
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.steps import make_step
from sclip_plugin.text.labels import parse_labels

LABELS = ["cat", ["person", "person in shirt"], "potted plant"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


def test_defaults_follow_the_tower(segmenter):
    assert (segmenter.settings.window, segmenter.settings.window_stride, segmenter.settings.resize_short_side) == (
        112,
        56,
        168,
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (16, 16), (113, 95), (640, 21), (300, 200)])
def test_any_size(segmenter, size):
    result = segmenter(noise(*size), LABELS)
    assert result.label_map.shape == size[::-1]
    assert result.label_map.dtype == np.int16
    assert set(np.unique(result.label_map)) <= {0, 1, 2}
    assert result.overlay().width >= size[0]


def test_a_large_picture_is_cut_into_windows_at_its_own_size(segmenter, monkeypatch):
    seen = []
    embed = segmenter.tower.embed
    monkeypatch.setattr(
        segmenter.tower, "embed", lambda pixels, how: seen.append(tuple(pixels.shape)) or embed(pixels, how)
    )
    result = segmenter(noise(500, 300), LABELS, resize_short_side=0, stride=112)
    assert result.label_map.shape == (300, 500)
    assert sum(shape[0] for shape in seen) == 3 * 5
    assert {shape[2:] for shape in seen} == {(112, 112)}


def test_several_pictures_equal_one_by_one(segmenter):
    pictures = [noise(200, 150, 1), noise(90, 300, 2), noise(200, 150, 3), noise(40, 40, 4)]
    together = segmenter(pictures, LABELS)
    for picture, result in zip(pictures, together, strict=True):
        alone = segmenter(picture, LABELS)
        assert (alone.label_map == result.label_map).mean() > 0.9999
        golden.assert_equal(torch.from_numpy(result.scores), torch.from_numpy(alone.scores))


def test_a_class_has_a_constant(segmenter):
    """It is added to the cosines, so a threshold, a map and a mask see it too."""
    picture, plain = noise(90, 70), parse_labels(LABELS)
    constants = replace(plain, constants=(0.0, 0.01, -0.02))
    encoded = segmenter.encode(picture, dtype=torch.float32)
    cosines = encoded.similarity(LABELS)
    shifted = cosines + np.array([0.0, 0.01, -0.02], np.float32)[:, None, None]
    np.testing.assert_allclose(encoded.similarity(constants), shifted, atol=1e-6)
    before, after = segmenter(picture, plain, logit_scale=1.0).scores, segmenter(picture, constants, logit_scale=1.0)
    odds = np.log(after.scores[1:] / after.scores[:1]) - np.log(before[1:] / before[:1])
    np.testing.assert_allclose(odds, np.array([0.01, -0.02])[:, None, None] + 0 * odds, atol=1e-4)
    masks = np.ones((1, 70, 90), bool)
    of_masks = [encoded.classify(masks, labels, logit_scale=1.0).scores[0] for labels in (plain, constants)]
    assert np.log(of_masks[1][1:] / of_masks[1][0] * of_masks[0][0] / of_masks[0][1:]) == pytest.approx(
        [0.01, -0.02], abs=1e-5
    )
    np.testing.assert_array_equal(encoded.segment(constants).label_map, segmenter(picture, constants).label_map)


def test_a_stream_is_lazy(segmenter):
    def endless():
        while True:
            yield noise(60, 60)

    stream = segmenter.stream(endless(), LABELS)
    assert next(stream).label_map.shape == (60, 60)


def test_scores_are_a_distribution_over_names_and_decide_the_labels(segmenter):
    result = segmenter(noise(200, 150), LABELS)
    assert result.scores.shape == (3, 150, 200)
    assert result.scores.min() >= 0 and result.scores.max() <= 1
    assert (result.scores.argmax(axis=0) == result.label_map).mean() > 0.9999
    assert sum(result.areas().values()) == pytest.approx(1)
    for label, score in result.mean_scores().items():
        own = result.scores[result.labels.index(label)][result.mask(label)]
        assert score == pytest.approx(own.mean(), rel=1e-4)


def test_a_threshold_leaves_uncertain_pixels_unlabelled(segmenter):
    plain = segmenter(noise(200, 150), LABELS)
    best = plain.scores.max(axis=0)
    threshold = float(np.median(best))
    result = segmenter(noise(200, 150), LABELS, threshold=threshold)
    assert ((result.label_map == -1) == (best < threshold)).mean() > 0.9999
    assert (result.label_map[result.label_map >= 0] == plain.label_map[result.label_map >= 0]).all()
    assert result.to_dict()["unlabelled"] == pytest.approx((best < threshold).mean(), abs=1e-3)


def test_dropped_classes_and_low_scores_follow_the_benchmarks_rule(segmenter):
    picture = noise(200, 150)
    plain = segmenter(picture, LABELS)
    areas = [(plain.label_map == index).sum() for index in range(3)]
    share = [area / max(1, sum(areas[1:])) for area in areas]
    small = 1 if areas[1] < areas[2] else 2
    result = segmenter(picture, LABELS, steps=f"benchmark(area={share[small] + 1e-3})")
    assert not (result.label_map == small).any()
    assert (result.scores[small] == 0).all()
    assert (result.scores.argmax(axis=0) == result.label_map).mean() > 0.9999


def test_class_scores_are_the_best_of_the_names(segmenter):
    result = segmenter(noise(64, 64), LABELS)
    names = (result._scores.maps.full() * segmenter.settings.logit_scale).softmax(dim=-1)
    expected = torch.stack([names[..., 0], names[..., 1:3].amax(dim=-1), names[..., 3]])
    given = result._scores.of_classes(result._scores.maps.full())
    torch.testing.assert_close(given, expected)


def test_scores_of_a_huge_picture_fit(segmenter, monkeypatch):
    monkeypatch.setattr("sclip_plugin.steps.scores.SCORES_LIMIT", 3 * 100 * 75)
    result = segmenter(noise(400, 300), LABELS)
    assert result.label_map.shape == (300, 400)
    assert result.scores.shape == (3, 75, 100)
    assert result.heatmap("cat").width >= 400


@pytest.mark.parametrize("limit", ["PIXELS_AT_MOST", "VALUES_AT_MOST"])
def test_refinement_of_a_huge_picture_fits(segmenter, monkeypatch, limit):
    values_a_pixel = 1 if limit == "PIXELS_AT_MOST" else 4  # names
    monkeypatch.setattr(f"sclip_plugin.steps.pamr.{limit}", values_a_pixel * 100 * 75)
    result = segmenter(noise(400, 300), LABELS, steps="pamr(3)")
    assert result.label_map.shape == (300, 400)
    assert result._scores.maps.values.shape == (75, 100, 4)


def test_saved_files_are_what_they_say(segmenter, tmp_path):
    result = segmenter(noise(120, 90), LABELS, threshold=0.3)
    paths = result.save(tmp_path / "new", "photo", heatmaps=True)
    assert {path.name for path in paths.values()} == {
        "photo.overlay.png", "photo.labels.png", "photo.json", "photo.heatmap.0-cat.png",
        "photo.heatmap.1-person.png", "photo.heatmap.2-potted plant.png",
    }  # fmt: skip
    labels = Image.open(paths["labels"])
    assert labels.mode == "P"
    values = np.asarray(labels).astype(np.int16)
    np.testing.assert_array_equal(np.where(values == 255, -1, values), result.label_map)
    report = json.loads(paths["json"].read_text())
    assert [entry["label"] for entry in report["labels"]] == ["cat", "person", "potted plant"]
    assert report["settings"]["method"] == "csa" and report["settings"]["window"] == 112
    assert sum(entry["area"] for entry in report["labels"]) + report["unlabelled"] == pytest.approx(1)


def test_settings_of_a_call_do_not_stay(segmenter):
    before = segmenter.settings
    segmenter(noise(64, 64), LABELS, method="naclip", std=3.0, window=0, refine="pamr(1)")
    assert segmenter.settings == before


def test_presets_set_what_the_authors_set():
    model, tokenizer = golden.model("open_clip"), golden.tokenizer_of("open_clip")
    segmenter = Segmenter(model, tokenizer, preset="sclip/voc21", cache_dir=False, templates="plain")
    settings = segmenter.settings
    assert (settings.method, settings.logit_scale, settings.steps) == ("csa", 65, ("benchmark(prob=0.1, area=0.1)",))
    assert (settings.window, settings.stride, settings.resize_short_side) == (224, 112, 336)
    assert len(segmenter.vocabulary.labels) == 21 and len(segmenter.vocabulary.names) == 56
    assert len(segmenter(noise(64, 48)).labels) == 21
    naclip = Segmenter(model, tokenizer, preset="naclip/ade20k", cache_dir=False).settings
    assert (naclip.method, naclip.make_method().std) == ("naclip", 5.0) and make_step("pamr") in naclip.make_steps()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"labels": []}, LabelError, "empty"),
        ({}, LabelError, "no labels"),
        ({"labels": ["cat"], "methode": "csa"}, UnknownNameError, "method"),
        ({"labels": ["cat"], "method": "cas"}, UnknownNameError, "csa"),
        ({"labels": ["cat"], "method": "naclip", "sdt": 3}, UnknownNameError, "std"),
        ({"labels": ["cat"], "threshold": 40}, ValueError, "0 to 1"),
        ({"labels": ["cat"], "stride": 0}, ValueError, "stride"),
        ({"labels": ["cat"], "templates": "photo"}, UnknownNameError, "{}"),
    ],
)
def test_what_is_wrong_is_said(segmenter, arguments, error, words):
    with pytest.raises(error) as caught:
        segmenter(noise(32, 32), **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize("on_error", ["return", "skip"])
def test_a_bad_picture_in_a_list_does_not_end_the_call(segmenter, tmp_path, on_error):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 cut")
    pictures = [noise(64, 64), tmp_path / "bad.jpg", noise(200, 90), tmp_path / "absent.jpg", noise(30, 30)]
    results = segmenter(pictures, LABELS, on_error=on_error)
    good = [result for result in results if not isinstance(result, PictureError)]
    assert [result.size for result in good] == [(64, 64), (90, 200), (30, 30)]
    if on_error == "return":
        assert [type(result).__name__ for result in (results[1], results[3])] == [
            "PictureError",
            "PictureNotFoundError",
        ]
    else:
        assert len(results) == 3
    with pytest.raises(PictureError, match="bad.jpg"):
        segmenter(pictures, LABELS)
    with pytest.raises(ValueError, match="'raise' or 'return' or 'skip'"):
        segmenter(pictures, LABELS, on_error="ignore")


def test_a_server_opens_no_file(segmenter, tmp_path):
    path = tmp_path / "a.png"
    noise(20, 20).save(path)
    closed = Segmenter(segmenter.model, golden.tokenizer_of("open_clip"), cache_dir=False, paths=False)
    for named in (path, str(path)):
        with pytest.raises(PictureError, match="path"):
            closed(named, LABELS)
    assert closed(noise(20, 20), LABELS, templates="plain").size == (20, 20)


def test_pixels_smaller_than_a_patch(segmenter):
    with pytest.raises(PictureError, match="patch"):
        segmenter(golden.prepared(torch.zeros(3, 15, 200)), LABELS)


def test_an_unknown_label_lists_the_known(segmenter):
    result = segmenter(noise(32, 32), LABELS)
    with pytest.raises(UnknownNameError, match="potted plant"):
        result.mask("plant")


@pytest.mark.parametrize(
    ("device", "amx", "dtype"),
    [("cuda", False, torch.float16), ("cpu", True, torch.bfloat16), ("cpu", False, torch.float32)],
)
def test_the_fastest_dtype(monkeypatch, device, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert fastest_dtype(torch.device(device)) == dtype


def test_a_dtype_is_given_by_name_and_labels_stay():
    scene = sp.draw_scene(seed=2)
    exact = Segmenter.from_pretrained("demo", cache_dir=False, templates="plain")
    half = Segmenter.from_pretrained("demo", dtype="bfloat16", cache_dir=False, templates="plain")
    assert (exact.dtype, half.dtype) == ("float32", "bfloat16")
    same = exact(scene.picture, scene.labels).label_map == half(scene.picture, scene.labels).label_map
    assert 0.98 < same.mean() < 1
    with pytest.raises(UnknownNameError, match="bfloat16"):
        Segmenter.from_pretrained("demo", dtype="bfloat15")


def test_batches_change_nothing(segmenter, monkeypatch):
    """Windows of several pictures, of two sizes, one at a time and all together."""
    pictures = [noise(200, 150, 1), noise(90, 300, 2), noise(200, 150, 3)]
    expected = [segmenter(picture, LABELS) for picture in pictures]
    for tokens in (1, 150, 10**6):
        monkeypatch.setattr("sclip_plugin.device.CPU", replace(CPU, tokens=tokens))
        for ours, alone in zip(segmenter.stream(pictures, LABELS), expected, strict=True):
            golden.assert_equal(ours._scores.maps.full(), alone._scores.maps.full())


def test_a_stream_reads_no_more_than_16_pictures_ahead(segmenter, monkeypatch):
    monkeypatch.setattr("sclip_plugin.device.CPU", replace(CPU, tokens=10**6))
    read: list[int] = []
    pictures = (read.append(index) or noise(112, 112, index) for index in range(40))
    results = segmenter.stream(pictures, LABELS)
    next(results)
    assert len(read) == 16
    assert len(list(results)) == 39


@pytest.mark.parametrize("method", ["csa", "resclip"])
def test_scores_are_in_single_precision_under_autocast(segmenter, method):
    """Autocast is for the tower; scores and what is decided by them are not rounded to half precision."""
    with torch.autocast("cpu", torch.bfloat16):
        result = segmenter(noise(120, 90), LABELS, method=method)
    assert result._scores.maps.full().dtype == torch.float32
    values = result._scores.maps.values.unique()
    assert (values.bfloat16().float() != values).float().mean() > 0.9
