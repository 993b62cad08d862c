"""Look once, ask many: an encoded picture answers as a call does."""

import dataclasses

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, LabelError, SettingError, ShapeError
from sclip_plugin.imaging.pictures import to_tensor
from sclip_plugin.imaging.resampling import normalise

LABELS = ["cat", ["potted plant", "sofa"], "person"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8))


def make(framework="open_clip", **settings):
    return sp.Segmenter(
        golden.model(framework), golden.tokenizer_of(framework), cache_dir=False, templates="plain", **settings
    )


@pytest.mark.parametrize("framework", ["transformers", "open_clip", "open_clip_custom_text", "openai"])
@pytest.mark.parametrize("method", ["csa", "naclip", "scclip", "gem"])
def test_in_single_precision_the_label_map_is_that_of_a_call(framework, method):
    segmenter = make(framework, method=method)
    encoded = segmenter.encode(PICTURE, dtype=torch.float32)
    called, asked = (
        segmenter(PICTURE, LABELS, steps="benchmark(prob=0.34)"),
        encoded.segment(LABELS, steps="benchmark(prob=0.34)"),
    )
    np.testing.assert_array_equal(asked.label_map, called.label_map)
    assert asked.settings == called.settings
    golden.assert_equal(torch.from_numpy(asked.scores), torch.from_numpy(called.scores))


def test_in_half_precision_few_pixels_differ(segmenter):
    called, asked = segmenter(PICTURE, LABELS), segmenter.encode(PICTURE).segment(LABELS)
    assert (asked.label_map != called.label_map).mean() < 0.01


def test_the_tower_runs_once(segmenter, monkeypatch):
    encoded = segmenter.encode(PICTURE)
    monkeypatch.setattr(segmenter.tower, "embed", lambda *arguments: pytest.fail("the tower ran again"))
    for labels in (LABELS, ["a", "b"], {"mine": torch.ones(64), "cat": "cat"}):
        assert encoded.segment(labels).label_map.shape == (150, 230)
    encoded.similarity(["cat", "dog"])
    encoded.features()


def test_refinement_and_decisions_are_questions_too(segmenter):
    encoded = segmenter.encode(PICTURE, dtype=torch.float32)
    changes = {"steps": "pamr(2)", "logit_scale": 20.0, "background": True, "threshold": 0.01}
    np.testing.assert_array_equal(
        encoded.segment(LABELS, **changes).label_map, segmenter(PICTURE, LABELS, **changes).label_map
    )


@pytest.mark.parametrize(
    "change", [{"method": "naclip"}, {"window": 64}, {"stride": 10}, {"resize_short_side": 99}, {"temperature": 2.0}]
)
def test_what_decides_the_features_cannot_be_changed(segmenter, change):
    encoded = segmenter.encode(PICTURE)
    with pytest.raises(SettingError, match="on which its features depend"):
        encoded.segment(LABELS, **change)


def test_a_method_that_depends_on_the_words_is_refused(segmenter):
    with pytest.raises(SettingError, match="sfr=None"):
        segmenter.encode(PICTURE, method="resclip")
    assert segmenter.encode(PICTURE, method="resclip", sfr=None).segment(LABELS).label_map.shape == (150, 230)


def test_lists_and_streams(segmenter):
    pictures = [PICTURE, PICTURE.resize((40, 40)), PICTURE.resize((300, 90))]
    encoded = segmenter.encode(pictures)
    assert [e.size for e in encoded] == [(150, 230), (40, 40), (90, 300)]
    stream = segmenter.encode(iter(pictures))
    assert next(stream).size == (150, 230)
    np.testing.assert_array_equal(encoded[2].segment(LABELS).label_map.shape, (90, 300))


def test_similarity_is_the_cosine(segmenter):
    picture = PICTURE.resize((112, 112))
    encoded = segmenter.encode(picture, window=0, resize_short_side=0, dtype=torch.float32)
    features = sp.dense_features(
        segmenter.model, (segmenter.encoder.mean.new_tensor(np.asarray(picture)).permute(2, 0, 1)[None] / 255
                          - segmenter.encoder.mean[:, None, None]) / segmenter.encoder.std[:, None, None]
    )  # fmt: skip
    _, text = segmenter.text_embeddings(["cat", "dog"])
    cosines = torch.einsum("dhw,kd->khw", F.normalize(features[0], dim=0), text)
    expected = F.interpolate(cosines[None], size=(112, 112), mode="bilinear")[0]
    golden.assert_equal(torch.from_numpy(encoded.similarity(["cat", "dog"])), expected)
    assert encoded.similarity("cat").shape == (112, 112)
    golden.assert_equal(torch.from_numpy(encoded.similarity({"v": text[1]}))[0], expected[1])


def test_features_of_one_window_are_the_tower_s(segmenter):
    encoded = segmenter.encode(PICTURE.resize((112, 112)), window=0, resize_short_side=0, dtype=torch.float32)
    vectors = encoded.vectors.permute(2, 0, 1)[None]
    pixels = F.interpolate(vectors, size=(112, 112), mode="bilinear")
    golden.assert_equal(encoded.features(), F.interpolate(pixels, size=(7, 7), mode="bilinear")[0])
    assert encoded.features().shape == (64, 7, 7)
    assert segmenter.encode(PICTURE).features().shape == (64, 168 // 16, 257 // 16)


class TestByExample:
    def test_a_region_finds_itself(self):
        scene = sp.draw_scene(seed=1)
        segmenter = sp.Segmenter.from_pretrained("demo", cache_dir=False)
        place = int(np.bincount(scene.label_map.ravel()).argmax())
        mask = scene.label_map == place
        vector = segmenter.vector_of(scene.picture, mask)
        others = segmenter.vector_of(scene.picture, ~mask)
        result = segmenter(scene.picture, {"this": vector, "that": others})
        assert (result.mask("this") & mask).sum() / (result.mask("this") | mask).sum() > 0.5

    def test_a_uniform_mask_is_the_mean(self, segmenter):
        encoded = segmenter.encode(PICTURE)
        mean = F.normalize(encoded.features().mean(dim=(1, 2)), dim=0)
        golden.assert_equal(encoded.vector_of(np.ones((150, 230), bool)), mean)

    @pytest.mark.parametrize("mask", [np.zeros((150, 230), bool), np.ones((3, 3), bool), -np.ones((150, 230))])
    def test_masks_that_are_none(self, segmenter, mask):
        with pytest.raises(ShapeError, match="mask"):
            segmenter.encode(PICTURE).vector_of(mask)


class TestImageEmbeddings:
    def test_of_a_picture_of_the_native_size_it_is_the_model_s_own(self):
        segmenter = make("transformers")
        picture = PICTURE.resize((112, 112))
        encoded = segmenter.encode(picture, window=0, resize_short_side=0, dtype=torch.float32)
        pixels = normalise(to_tensor(picture), segmenter.encoder.mean, segmenter.encoder.std)[None]
        own = segmenter.model.get_image_features(pixels)
        own = F.normalize(getattr(own, "pooler_output", own), dim=-1)[0]
        golden.assert_equal(encoded.image, own)
        golden.assert_equal(encoded.windows[0], own)

    def test_every_window_and_every_picture_has_its_own(self, segmenter):
        pictures = [PICTURE, PICTURE.transpose(Image.Transpose.ROTATE_90), PICTURE.resize((300, 90))]
        together = segmenter.encode(pictures, dtype=torch.float32)
        for picture, encoded in zip(pictures, together, strict=True):
            alone = segmenter.encode(picture, dtype=torch.float32)
            assert encoded.windows.shape == (len(encoded.plan), 64) and encoded.image.shape == (64,)
            golden.assert_equal(encoded.image, alone.image)
            golden.assert_equal(encoded.windows, alone.windows)


class TestFiles:
    def test_saved_and_read(self, segmenter, tmp_path):
        encoded = segmenter.encode(PICTURE, method="naclip", std=3.0)
        encoded.save(tmp_path / "a.sclip.safetensors")
        again = sp.Encoded.load(tmp_path / "a.sclip.safetensors", segmenter)
        np.testing.assert_array_equal(again.segment(LABELS).label_map, encoded.segment(LABELS).label_map)
        assert again.settings.method_options == {"std": 3.0}

    def test_refinement_needs_the_picture(self, segmenter, tmp_path):
        segmenter.encode(PICTURE).save(tmp_path / "a")
        with pytest.raises(SettingError, match="picture="):
            sp.Encoded.load(tmp_path / "a", segmenter).segment(LABELS, refine="pamr(1)")
        read = sp.Encoded.load(tmp_path / "a", segmenter, picture=PICTURE)
        assert read.segment(LABELS, refine="pamr(1)").picture is not None

    def test_another_model_is_refused(self, segmenter, tmp_path):
        segmenter.encode(PICTURE).save(tmp_path / "a")
        other = sp.Segmenter.from_pretrained("demo", cache_dir=False)
        with pytest.raises(FileFormatError, match="other weights"):
            sp.Encoded.load(tmp_path / "a", other)

    def test_tensors_of_another_picture(self, segmenter, tmp_path):
        encoded = segmenter.encode(PICTURE)
        for vectors in (encoded.vectors[:-1], encoded.vectors * float("nan")):
            dataclasses.replace(encoded, vectors=vectors).save(tmp_path / "a")
            with pytest.raises(FileFormatError, match="no encoded picture.*(windows|not numbers)"):
                sp.Encoded.load(tmp_path / "a", segmenter)

    def test_a_model_in_hand_can_t_be_named_by_a_file(self, segmenter, tmp_path):
        encoded = segmenter.encode(PICTURE.resize((60, 40)), method="proxyclip", guide=transformers_model("dino8"))
        with pytest.raises(SettingError, match="plain values"):
            encoded.save(tmp_path / "a")
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      "])
    def test_what_is_no_encoded_picture(self, segmenter, tmp_path, content):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(FileFormatError, match="no encoded picture"):
            sp.Encoded.load(tmp_path / "a", segmenter)


def test_labels_are_checked_as_ever(segmenter):
    with pytest.raises(LabelError, match="no labels"):
        segmenter.encode(PICTURE).segment()
    assert "vectors" not in repr(segmenter.encode(PICTURE))
