"""A segmentation by itself: made by hand, read from files, held in memory."""

import json
import pickle
from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, LabelError, SettingError, ShapeError, UnknownNameError
from sclip_plugin.segment.results import is_result

LABELS = ["cat", "sofa", "grass"]
MAP = np.random.default_rng(0).integers(-1, 3, (60, 80))
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def segmented():
    segmenter = sp.Segmenter(golden.model("open_clip"), golden.tokenizer_of("open_clip"), cache_dir=False)
    return segmenter(PICTURE, LABELS, templates="plain", threshold=0.45)


class TestByHand:
    def test_a_label_map_is_enough(self):
        result = sp.Segmentation(LABELS, MAP)
        assert result.size == (60, 80) and result.labels == tuple(LABELS) and result.settings == {}
        assert result.areas()["cat"] == (MAP == 0).mean() and (result.mask("sofa") == (MAP == 1)).all()
        assert result.scores is None and result.mean_scores() == {} and result.overlay().width >= 80
        for ask in (lambda: result.heatmap("cat"), lambda: list(result.score_tiles())):
            with pytest.raises(SettingError, match="no scores"):
                ask()

    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
    def test_given_scores_are_its_scores(self, kind):
        scores = np.random.default_rng(2).random((3, 60, 80)).astype(np.float32)
        result = sp.Segmentation(LABELS, kind(MAP), PICTURE, kind(scores))
        np.testing.assert_array_equal(result.scores, scores)
        assert result.mean_scores()["grass"] == pytest.approx(scores[2][MAP == 2].mean(), rel=1e-6)
        for (rows, columns), tile in result.score_tiles():
            np.testing.assert_array_equal(tile.numpy(), scores[:, rows, columns])

    def test_smaller_scores_are_enlarged(self):
        scores = np.random.default_rng(2).random((3, 6, 8)).astype(np.float32)
        expected = torch.nn.functional.interpolate(torch.from_numpy(scores)[None], size=(60, 80), mode="bilinear")[0]
        np.testing.assert_allclose(sp.Segmentation(LABELS, MAP, scores=scores).scores, expected.numpy(), atol=1e-6)

    def test_settings_may_be_settings(self):
        settings = sp.Settings(window=96)
        assert sp.Segmentation(LABELS, MAP, settings=settings).settings["identity"] == settings.identity()

    @pytest.mark.parametrize(
        ("error", "words", "arguments"),
        [
            (LabelError, "list of names", ("cat", MAP)),
            (LabelError, "list of names", (["cat", 3], MAP)),
            (LabelError, "3 labels, 2 different", (["cat", "cat", "sofa"], MAP)),
            (LabelError, "0 labels", ([], MAP)),
            (SettingError, "from -1 to 2", (["cat", "sofa"], MAP)),
            (SettingError, "from -3", (LABELS, MAP - 2)),
            (ShapeError, r"\(60, 80\) of float64", (LABELS, MAP / 2)),
            (ShapeError, r"\(1, 60, 80\)", (LABELS, MAP[None])),
            (ShapeError, "80 x 60, the label map 60 x 80", (LABELS, MAP.T, PICTURE)),
            (ShapeError, r"\(2, 60, 80\)", (LABELS, MAP, None, np.zeros((2, 60, 80)))),
            (ShapeError, r"\(3, 61, 80\)", (LABELS, MAP, None, np.zeros((3, 61, 80)))),
        ],
    )
    def test_what_does_not_go_together_is_said(self, error, words, arguments):
        with pytest.raises(error, match=words):
            sp.Segmentation(*arguments)


class TestRepr:
    def test_it_says_the_size_and_the_largest(self):
        halves = np.repeat([[0, 1]], 10, axis=0)
        assert repr(sp.Segmentation(LABELS, halves)) == "<Segmentation of 2 x 10: cat 50 %, sofa 50 %>"

    def test_it_stays_short(self):
        many = sp.Segmentation([f"{i:0100}" for i in range(900)], np.arange(900)[None])
        assert repr(many).endswith(", 896 more>") and len(repr(many)) < 250


class TestInMemory:
    def test_nothing_is_kept_on_a_device(self, segmented):
        """On a machine without one a stand-in: what was on the CPU stays; what was not is copied there."""
        lazy = segmented._scores
        moved = torch.device("meta")
        away = replace(lazy, maps=replace(lazy.maps, values=lazy.maps.values.to(moved)))
        with pytest.raises(NotImplementedError, match="meta"):  # which shows that it is copied
            sp.Segmentation(LABELS, MAP, scores=away)
        assert lazy.maps.values.device.type == "cpu"

    def test_a_copy_by_pickle_is_the_same(self, segmented):
        copy = pickle.loads(pickle.dumps(segmented))
        assert repr(copy) == repr(segmented) and copy.to_dict() == segmented.to_dict()
        np.testing.assert_array_equal(copy.scores, segmented.scores)


class TestReadAgain:
    def test_what_was_saved_is_loaded(self, segmented, tmp_path):
        segmented.save(tmp_path, "deep/photo")
        loaded = sp.Segmentation.load(tmp_path, "deep/photo", PICTURE)
        np.testing.assert_array_equal(loaded.label_map, segmented.label_map)
        assert (loaded.label_map == -1).any() and loaded.scores is None
        assert loaded.to_dict() == segmented.to_dict()
        assert loaded.overlay().tobytes() == segmented.overlay().tobytes()

    def test_more_labels_than_a_palette_holds(self, tmp_path):
        labels = [str(i) for i in range(300)]
        sp.Segmentation(labels, np.arange(-1, 299).reshape(20, 15)).save(tmp_path)
        assert sp.Segmentation.load(tmp_path).label_map.ravel().tolist() == list(range(-1, 299))

    @pytest.mark.parametrize(
        "broken", ["missing", "json", "no map", "other map", "fewer labels", "a label without name"]
    )
    def test_what_is_no_result_is_said(self, segmented, tmp_path, broken):
        paths = segmented.save(tmp_path, "a")
        content = paths["json"].read_text()
        if broken == "missing":
            paths["json"].unlink()
        elif broken == "json":
            paths["json"].write_text(content[:40])
        elif broken == "no map":
            paths["labels"].unlink()
        elif broken == "other map":
            Image.new("P", (4, 4)).save(paths["labels"])
        elif broken == "fewer labels":
            paths["json"].write_text(content.replace('"index": 0', '"index": "x"'))
        else:
            paths["json"].write_text(content.replace('"label": "cat"', '"name": "cat"'))
        with pytest.raises(FileFormatError, match="a\\.(json|labels\\.png)"):
            sp.Segmentation.load(tmp_path, "a")

    @pytest.mark.parametrize(
        "broken",
        [
            {"labels": 3}, {"labels": ["cat"]}, {"labels": []}, {"settings": 3}, {"settings": "abc"}, {"files": [1]},
            {"labels": [{"index": 0, "label": "cat", "score": "x"}]},
            {"labels": [{"index": 0, "label": 7, "score": 1}]},
            {"files": {"labels": 3}}, {"files": {"labels": "../../a/b.png"}}, {"width": "x"}, {"height": None},
        ],
    )  # fmt: skip
    def test_a_result_that_somebody_changed_ends_in_a_sentence(self, tmp_path, broken):
        paths = sp.Segmentation(["cat"], np.zeros((3, 4), int)).save(tmp_path, "a")
        paths["json"].write_text(json.dumps({**json.loads(paths["json"].read_text()), **broken}))
        try:
            assert sp.Segmentation.load(tmp_path, "a").labels == ("cat",)
        except FileFormatError as error:
            assert "a.json" in str(error)
        else:
            assert "files" in broken  # the usual names are there

    def test_a_picture_of_another_size_is_said(self, tmp_path):
        sp.Segmentation(["cat"], np.zeros((3, 4), int)).save(tmp_path, "a")
        with pytest.raises(ShapeError, match="80 x 60"):
            sp.Segmentation.load(tmp_path, "a", PICTURE)

    def test_a_label_that_is_not_there(self, segmented):
        with pytest.raises(UnknownNameError, match="'caat'.*'cat'"):
            segmented.heatmap("caat")


class TestDrawn:
    def test_small_regions_take_the_label_around_them(self):
        label_map = np.zeros((20, 30), int)
        label_map[5, 5:9], label_map[10:15, 10:20], label_map[12, 12] = 1, 2, -1
        result = sp.Segmentation(LABELS, label_map, scores=np.zeros((3, 20, 30)))
        cleaned = result.cleaned(5)
        expected = np.zeros((20, 30), int)
        expected[10:15, 10:20] = 2
        np.testing.assert_array_equal(cleaned.label_map, expected)
        np.testing.assert_array_equal(result.label_map, label_map)
        assert cleaned.scores.shape == (3, 20, 30)

    @pytest.mark.parametrize("min_area", [0, 1, 10**6])
    def test_nothing_to_clean_or_nothing_left_changes_nothing(self, min_area):
        np.testing.assert_array_equal(sp.Segmentation(LABELS, MAP).cleaned(min_area).label_map, MAP)

    def test_a_region_that_is_large_enough_stays(self):
        areas = [thing.area for thing in sp.Segmentation(LABELS, MAP).cleaned(12).instances()]
        assert min(areas) >= 12

    @pytest.mark.parametrize(("picture_format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP")])
    def test_smaller_pictures(self, segmented, tmp_path, picture_format, kind):
        old = segmented.save(tmp_path, "a", heatmaps=True)
        paths = segmented.save(tmp_path, "a", heatmaps=True, picture_format=picture_format)
        assert {*tmp_path.iterdir()} == {*paths.values()}
        assert paths["labels"] == old["labels"] and paths["overlay"].name == f"a.overlay.{picture_format}"
        for path in paths.values():
            assert path.suffix == ".json" or is_result(path)
        overlay = Image.open(paths["overlay"])
        assert overlay.format == kind
        difference = np.asarray(overlay.convert("RGB")).astype(int) - np.asarray(segmented.overlay())
        assert np.abs(difference).mean() < 10  # the picture is noise
        assert sp.Segmentation.load(tmp_path, "a").to_dict() == segmented.to_dict()

    def test_a_picture_too_large_for_its_format_is_said_before_anything_is_written(self, tmp_path):
        wide = sp.Segmentation(LABELS, np.zeros((2, 16384), int))
        with pytest.raises(SettingError, match="at most 16383"):
            wide.save(tmp_path, picture_format="webp")
        with pytest.raises(SettingError, match="png.*jpg.*webp"):
            wide.save(tmp_path, picture_format="bmp")
        assert list(tmp_path.iterdir()) == []

    def test_colours_of_ones_own_are_in_overlay_and_label_map(self, tmp_path):
        paths = sp.Segmentation(LABELS, np.zeros((300, 400), int)).save(tmp_path, colours={"cat": "#0000ff"}, opacity=1)
        assert Image.open(paths["overlay"]).getpixel((9, 9)) == (0, 0, 255)
        assert Image.open(paths["labels"]).convert("RGB").getpixel((9, 9)) == (0, 0, 255)

    def test_a_heat_map_says_its_scale(self, segmented):
        plain, stretched = segmented.heatmap("cat"), segmented.heatmap("cat", stretch=True)
        assert plain.tobytes() != stretched.tobytes()
