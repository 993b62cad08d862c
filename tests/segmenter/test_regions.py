"""Masks in a segmenter's settings, and words for masks that are there already."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import SettingError, ShapeError
from sclip_plugin.masks import find_masks, mask_vote, masks_of
from sclip_plugin.segment.classify import pooled

LABELS = ["cat", ["potted plant", "sofa"], "person"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8))
IDS = (np.arange(150)[:, None] // 40) * 6 + np.arange(230) // 40


@pytest.fixture(scope="module", params=["transformers", "open_clip", "openai"])
def segmenter(request):
    return sp.Segmenter(
        golden.model(request.param), golden.tokenizer_of(request.param), cache_dir=False, templates="plain"
    )


class TestMapCorrection:
    def test_it_is_the_vote_of_the_source_s_masks(self, segmenter):
        plain, corrected = segmenter(PICTURE, LABELS), segmenter(PICTURE, LABELS, masks="slic", steps="vote")
        ids = masks_of(find_masks("slic"), PICTURE)
        np.testing.assert_array_equal(corrected.label_map, mask_vote(plain.label_map, ids))
        assert (corrected.label_map != plain.label_map).any()
        golden.assert_equal(torch.from_numpy(corrected.scores), torch.from_numpy(plain.scores))  # scores stay
        assert corrected.settings["masks"] == "slic"

    def test_it_is_a_question_to_an_encoded_picture_too(self, segmenter):
        encoded = segmenter.encode(PICTURE, dtype=torch.float32)
        corrected = encoded.segment(LABELS, masks="slic", steps="vote", threshold=0.35)
        np.testing.assert_array_equal(
            corrected.label_map, segmenter(PICTURE, LABELS, masks="slic", steps="vote", threshold=0.35).label_map
        )
        np.testing.assert_array_equal(
            encoded.segment(LABELS, masks="slic").label_map, segmenter(PICTURE, LABELS).label_map
        )

    def test_pixels_alone_are_looked_at_at_their_own_size(self, segmenter):
        pixels = torch.from_numpy(np.array(PICTURE.resize((115, 75)))).permute(2, 0, 1)
        result = segmenter(golden.prepared(pixels, (150, 230)), LABELS, masks="slic(segments=20)", steps="vote")
        ids = masks_of(find_masks("slic(segments=20)"), PICTURE.resize((115, 75)))
        for region in np.unique(ids):
            assert len(np.unique(result.label_map[np.repeat(np.repeat(ids == region, 2, 0), 2, 1)])) == 1
        with pytest.raises(SettingError, match="normalised pixels"):
            segmenter(golden.prepared(pixels / 255.0), LABELS, masks="slic", steps="vote")


class TestMasksThatNothingLooksAt:
    """Masks by themselves change nothing: it is a step, or a method, that looks at regions."""

    @pytest.mark.parametrize("method", ["csa", "resclip"])
    def test_they_change_nothing_and_that_is_said(self, segmenter, method):
        plain = segmenter(PICTURE, LABELS, method=method)
        for steps in ((), "closing(1)", "pamr(1)"):
            expected = plain if steps != "pamr(1)" else segmenter(PICTURE, LABELS, method=method, steps=steps)
            with pytest.warns(UserWarning, match="vote"):
                result = segmenter(PICTURE, LABELS, method=method, masks="slic", steps=steps)
            np.testing.assert_array_equal(result.label_map, expected.label_map)
            np.testing.assert_array_equal(result.scores, expected.scores)
            assert result.settings["masks"] == "slic"

    def test_what_looks_at_them_is_not_warned_of(self, segmenter):
        """Warnings are errors in these tests."""
        plain = segmenter(PICTURE, LABELS)
        voted = segmenter(PICTURE, LABELS, masks="slic", steps="vote")
        assert (voted.label_map != plain.label_map).any()
        segmenter(PICTURE, LABELS, masks="slic", method="textregion")

    def test_a_step_of_regions_without_masks_is_refused(self, segmenter):
        with pytest.raises(SettingError, match="masks='slic'"):
            segmenter(PICTURE, LABELS, steps="vote")


class TestWordsForMasks:
    def test_pooling_is_a_weighted_mean(self):
        features = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
        masks = np.random.default_rng(0).random((6, 12, 20)) < 0.3
        masks[5] = False
        for mask, vector in zip(masks, pooled(features, masks), strict=True):
            total = torch.zeros(5)
            for row in range(3):
                for column in range(4):
                    share = mask[4 * row : 4 * row + 4, 5 * column : 5 * column + 5].mean()
                    total += features[:, row, column] * float(share)
            assert torch.allclose(vector, F.normalize(total, dim=0), atol=1e-6)

    def test_a_mask_s_scores_are_those_of_its_vector(self, segmenter):
        encoded = segmenter.encode(PICTURE, dtype=torch.float32)
        named = encoded.classify(IDS, LABELS)
        assert named.labels == ("cat", "potted plant", "person") and named.scores.shape == (len(np.unique(IDS)) - 1, 3)
        _, text = segmenter.text_embeddings(LABELS)
        for mask, scores, box in zip(named.masks, named.scores, named.boxes, strict=True):
            names = (40 * text @ encoded.vector_of(mask)).softmax(dim=0)
            expected = torch.stack([names[0], names[1:3].max(), names[3]])
            assert torch.allclose(torch.from_numpy(scores), expected, atol=1e-5)
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
        np.testing.assert_array_equal(encoded.classify(named.masks, LABELS).scores, named.scores)

    def test_the_view_is_the_model_s_own_embedding_of_it(self, segmenter):
        encoded = segmenter.encode(PICTURE, dtype=torch.float32)
        whole = np.ones((1, 150, 230), bool)
        named = encoded.classify(whole, LABELS, view="crop", weight=1.0)
        alone = segmenter.encode(PICTURE.resize((112, 112), Image.Resampling.BICUBIC), dtype=torch.float32,
                                 window=0, resize_short_side=0)  # fmt: skip
        _, text = segmenter.text_embeddings(LABELS)
        names = (40 * text @ alone.image).softmax(dim=0)
        assert np.allclose(named.scores[0, [0, 2]], names[[0, 3]], atol=1e-4)
        for view in ("cut", "blur"):  # of a mask that covers all the rest is nothing
            assert np.allclose(encoded.classify(whole, LABELS, view=view, weight=1.0).scores, named.scores, atol=1e-4)
        part = IDS[None] == 8
        seen = [encoded.classify(part, LABELS, view=view, weight=1.0).scores for view in ("crop", "cut", "blur")]
        assert not np.allclose(seen[0], seen[1]) and not np.allclose(seen[1], seen[2])
        half = encoded.classify(part, LABELS, view="crop", weight=0.0).scores
        assert np.allclose(half, encoded.classify(part, LABELS).scores, atol=1e-6)

    def test_what_comes_out(self, segmenter):
        named = segmenter.encode(PICTURE).classify("slic(segments=10)", LABELS)
        rows = named.to_dict()
        assert [row["label"] for row in rows] == list(named.labels_of_masks)
        assert sum(row["area"] for row in rows) == pytest.approx(1)
        label_map = named.label_map()
        for mask, label in zip(named.masks, named.labels_of_masks, strict=True):
            assert set(label_map[mask]) == {named.labels.index(label)}
        none = segmenter.encode(PICTURE).classify(np.zeros((0, 150, 230), bool), LABELS)
        assert none.scores.shape == (0, 3) and (none.label_map() == -1).all() and none.to_dict() == []

    def test_what_is_wrong_is_said(self, segmenter, tmp_path):
        encoded = segmenter.encode(PICTURE)
        with pytest.raises(ShapeError, match=r"id map \(150, 230\)"):
            encoded.classify(IDS[1:], LABELS)
        with pytest.raises(SettingError, match="view='crops'"):
            encoded.classify(IDS, LABELS, view="crops")
        encoded.save(tmp_path / "a")
        again = sp.Encoded.load(tmp_path / "a", segmenter)
        for arguments in ({"masks": IDS, "view": "blur"}, {"masks": "slic"}):
            with pytest.raises(SettingError, match="not known"):
                again.classify(labels=LABELS, **arguments)
