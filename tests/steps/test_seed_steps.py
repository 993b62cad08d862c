"""Feature surgery, ExCEL's enrichment and affinity, ITACLIP's views, texts and closing: against published arrays."""

from __future__ import annotations

import json

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, SettingError
from sclip_plugin.methods import make_method
from sclip_plugin.segment.encoding import Encoder, Run
from sclip_plugin.settings import Settings
from sclip_plugin.steps import Decided, GivenScores, Shown, excel, make_step, surgery
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.running import before_last_block

pytestmark = pytest.mark.usefixtures("without_gradients", "own_registries")

SQUARES = {"112x112": (7, 7), "144x144": (9, 9)}
INPUTS = golden.arrays("inputs")
PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (130, 170, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, templates="plain")


@pytest.mark.parametrize(("size", "grid"), [*SQUARES.items(), ("80x80", (5, 5))])
def test_feature_surgery(size, grid):
    theirs, text = golden.arrays("CLIP-Surgery"), golden.arrays("CLIP-Surgery")["text_bank"]
    scores = F.normalize(theirs[f"surgery.{size}.tokens"], dim=-1) @ text.T
    ours = surgery.feature_surgery(scores, scores[:, 0])
    golden.assert_equal(ours, theirs[f"surgery.{size}.similarity"])
    maps = surgery.similarity_map(ours[:1, 1:], grid, (60, 76))
    golden.assert_equal(maps, theirs[f"surgery.{size}.map_first"])
    places, labels = surgery.points(ours[0, 1:, 0], grid, (60, 76))
    assert torch.equal(places.float(), theirs[f"surgery.{size}.points_first"])
    assert torch.equal(labels.float(), theirs[f"surgery.{size}.point_labels_first"])


@pytest.mark.parametrize("size", SQUARES)
def test_feature_surgery_as_a_step(seg, size):
    """The same arrays through a segmenter, where words are vectors; one word is compared with the empty text."""
    theirs = golden.arrays("CLIP-Surgery")
    pixels = INPUTS[f"pixels.{size}"][0]
    seen = {}

    @sp.register_step("kept")
    class Kept(sp.Step):
        on = "patches"

        def __call__(self, given):
            seen["scores"] = given.scores
            return given.scores

    labels = dict(zip("abcde", theirs["text_bank"].numpy(), strict=True))
    seg(golden.prepared(pixels), labels, method="surgery", window=0, steps=["surgery", "kept"])
    golden.assert_equal(seen["scores"].flatten(0, 2), theirs[f"surgery.{size}.similarity"][0, 1:], 2e-5)
    seg(golden.prepared(pixels), ["cat"], method="surgery", window=0, steps=["surgery", "kept"])
    features = F.normalize(sp.dense_features(seg.tower, pixels[None], "surgery"), dim=1)[0]
    cat, nothing = seg.text_bank.embed(("cat", ""), seg.settings.templates)
    golden.assert_equal(seen["scores"][0, ..., 0], torch.einsum("dhw,d->hw", features, cat - nothing), 2e-5)


def test_words_of_clip_surgery():
    """Through its 85 templates, the empty text too."""
    theirs, clip = golden.arrays("CLIP-Surgery"), golden.model()
    table = clip.text_model.embeddings.token_embedding.weight
    table[theirs["token_embedding.rows"].long()] = theirs["token_embedding.values"].float()
    seg = sp.Segmenter(clip, golden.tokenizer(), cache_dir=False, templates="scene")
    assert len(seg.settings.templates) == 85
    bank = seg.text_bank.embed(("cat", "dog", "sofa", "potted plant", "person", ""), seg.settings.templates)
    golden.assert_equal(bank[:5], theirs["text_bank"])
    golden.assert_equal(bank[5:], theirs["text_empty"])


def test_excel_text_and_maps():
    theirs = golden.arrays("ExCEL")
    ours = torch.cat([excel.enriched(theirs["text"][:5], theirs["cluster_bank"]), theirs["text"][5:]])
    golden.assert_equal(ours, theirs["text_enriched"])
    for size in SQUARES:
        tokens = theirs[f"excel.{size}.tokens"]
        golden.assert_equal(tokens / tokens.norm(dim=1, keepdim=True), theirs[f"excel.{size}.features"])
        golden.assert_equal(excel.calibrated_maps(tokens, ours), theirs[f"excel.{size}.maps"])


def test_enrichment_with_few_attributes_keeps_all():
    text = F.normalize(torch.randn(3, 8), dim=1)
    bank = torch.randn(8, 9)
    golden.assert_equal(excel.enriched(text, bank), F.normalize(text + (text @ bank).softmax(dim=1) @ bank.T, dim=1))


@pytest.mark.parametrize(("size", "grid"), SQUARES.items())
@pytest.mark.parametrize("framework", golden.FRAMEWORKS)
def test_excel_affinity(framework, size, grid):
    theirs, tower = golden.arrays("ExCEL"), find_tower(golden.model(framework))
    block, context = before_last_block(tower, INPUTS[f"pixels.{size}"], tuple(range(6, 11)), "bilinear")
    maps = [*(context.taps[i].attention_map() for i in range(6, 11)), block.attention_map()]
    attention = excel.mean_attention(maps, 1)
    golden.assert_equal(attention[0], theirs[f"excel.{size}.mean_attention_first"])
    M = excel.transition(attention)
    golden.assert_equal(M[0], theirs[f"excel.{size}.transition_first"])
    refined = excel.spread(M[0], theirs[f"excel.{size}.maps"][0, 1:, :5], grid)
    golden.assert_equal(refined.T.unflatten(1, grid), theirs[f"excel.{size}.refined_first"])


@pytest.mark.parametrize(("method", "positions"), [("clearclip", "scale_factor"), ("excel", "bilinear")])
def test_affinity_as_a_step(seg, kept, method, positions):
    """Each window by itself, with the attention of the tower's last six blocks, as the method runs the tower."""
    seg(PICTURE, ["cat", "dog"], method=method, window=96, stride=64, steps=["kept", "affinity", "kept"])
    before, after = kept
    windows = (before.window_pixels() - seg.encoder.mean[:, None, None]) / seg.encoder.std[:, None, None]
    for number in (0, len(windows) - 1):
        block, context = before_last_block(seg.tower, windows[number][None], tuple(range(6, 11)), positions)
        maps = [*(context.taps[i].attention_map() for i in range(6, 11)), block.attention_map()]
        M = excel.transition(excel.mean_attention(maps, 1))[0]
        scores = before.scores[number].flatten(0, 1)
        maps01 = (scores - scores.amin(dim=0)) / (scores.amax(dim=0) - scores.amin(dim=0))
        golden.assert_equal(after.scores[number].flatten(0, 1), excel.spread(M, maps01, context.grid), 1e-4)


def test_boxes_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(0)
    for h, w in ((7, 7), (9, 12), (20, 20), (1, 6)):
        scores = torch.rand(1, 1, max(2, h // 2), max(2, w // 2), generator=generator)
        scores = F.interpolate(scores, (h, w), mode="bilinear")[0, 0]
        eight = (scores.numpy() * 255).astype(np.uint8)
        binary = cv2.threshold(eight, int(0.79 * eight.max()), 255, cv2.THRESH_BINARY)[1]
        expected = np.zeros((h, w), np.float32)
        for contour in cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]:
            x, y, width, height = cv2.boundingRect(contour)
            expected[y : min(y + height, h - 1), x : min(x + width, w - 1)] = 1
        assert np.array_equal(excel.in_boxes(scores, 0.79).numpy(), expected)


def test_enrichment_as_a_step(seg, tmp_path):
    theirs = golden.arrays("ExCEL")
    torch.save([theirs["cluster_bank"], torch.ones(3, 24)], tmp_path / "bank.pth")
    labels = dict(zip(["a", "b", "background"], theirs["text"][[0, 1, 5]].numpy(), strict=True))
    pixels = INPUTS["pixels.112x112"][0]
    step = f"enrich(bank={str(tmp_path / 'bank.pth')!r})"
    ours = seg(golden.prepared(pixels), labels, method="excel", window=0, steps=[step]).scores
    rich = dict(zip(labels, theirs["text_enriched"][[0, 1, 5]].numpy(), strict=True))
    golden.assert_equal(
        torch.from_numpy(ours), torch.from_numpy(seg(golden.prepared(pixels), rich, method="excel", window=0).scores)
    )
    torch.save(torch.zeros(32, 5), tmp_path / "narrow.pth")
    with pytest.raises(SettingError, match="32 values"):
        seg(golden.prepared(pixels), labels, steps=[f"enrich(bank={str(tmp_path / 'narrow.pth')!r})"])
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(FileFormatError, match="expected a tensor"):
        seg(golden.prepared(pixels), labels, steps=[f"enrich(bank={str(tmp_path / 'other.pth')!r})"])


def test_itaclip_whole():
    """Views, windows, thresholds and closing: scores and labels of the published pipeline."""
    theirs, scene = golden.arrays("ITACLIP"), INPUTS["scene"][0]
    of_class, text = torch.tensor([0, 0, 0, 1, 2, 3, 3]), theirs["text_bank"]
    settings = Settings(method="itaclip", window=112, stride=56, views=0.7, resize_short_side=0)
    encoder = Encoder(find_tower(golden.model()), torch.zeros(3), torch.ones(3))
    prepared = golden.prepared(scene, tuple(theirs["labels"].shape[1:]))
    seen = next(encoder.run([prepared], Run(make_method("itaclip"), settings, lambda features: features @ text.T)))
    window = F.interpolate(seen.plan.place(seen.vectors, 0).permute(2, 0, 1)[None], (112, 112), mode="bilinear")
    golden.assert_equal(golden.every_fourth(window), theirs["window_logits.every4"])
    names = (60 * seen.plan.stitched(seen.vectors, seen.size).full()).softmax(dim=-1)
    scores = torch.stack([names[..., of_class == c].amax(dim=-1) for c in range(4)])
    for c in (0, 2, 3):  # class 1 fell under the area threshold
        golden.assert_equal(golden.every_fourth(scores[c]), theirs["probs.every4"][c])
    assert not theirs["probs.every4"][1].any()
    scores[1] = 0
    labels = scores.argmax(dim=0).where(scores.amax(dim=0) >= 0.1, 0).numpy().astype(np.int16)
    assert (closed(labels, 3) == theirs["labels"][0].numpy()).mean() >= 0.9999


def closed(labels, side):
    size = labels.shape
    shown = Shown(None, None, torch.zeros(3), torch.ones(3))
    given = Decided(labels=labels, scores=GivenScores(np.zeros((1, *size), np.float32)), vocabulary=None, shown=shown)
    return make_step(f"closing({side})")(given).labels


@pytest.mark.parametrize("side", [3, 5])
def test_closing_is_opencvs(side, seg):
    cv2 = pytest.importorskip("cv2")
    labels = np.random.default_rng(0).integers(0, 5, (40, 31)).astype(np.int16)
    expected = cv2.morphologyEx(labels.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    assert np.array_equal(closed(labels, side), expected)
    plain = seg(PICTURE, ["cat", "dog"])
    assert np.array_equal(
        seg(PICTURE, ["cat", "dog"], steps=f"closing({side})").label_map, closed(plain.label_map, side)
    )
    with pytest.raises(SettingError, match="odd"):
        Settings(steps="closing(4)")


@pytest.mark.parametrize("method", ["csa", "gem", "naclip"])
def test_views_follow_any_method(seg, method):
    """One window: grey and blurred by torchvision's definitions, flipped features flipped back."""
    pixels = INPUTS["pixels.112x160"][:1]

    def unit(picture):
        return F.normalize(sp.dense_features(seg.tower, picture, method), dim=1)

    grey = (pixels * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    kernel = torch.exp(-0.5 * (torch.arange(-5.0, 6) / 5) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    blurred = F.conv2d(F.pad(pixels, (5, 5, 5, 5), "reflect"), kernel.expand(3, 1, 11, 11), groups=3)
    first = (unit(pixels) + unit(grey) + unit(blurred)) / 3
    second = (unit(pixels.flip(2)).flip(2) + unit(pixels.flip(3)).flip(3)) / 2
    settings = Settings(window=0, views=0.6)
    seen = next(seg.encoder.run([golden.prepared(pixels[0])], Run(make_method(method), settings, torch.clone)))
    golden.assert_equal(seen.vectors, (0.6 * first + 0.4 * second)[0].permute(1, 2, 0))


def test_auxiliary_texts(seg, kept, tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"cat": "a small animal", "unused": "x"}))
    step = f"auxiliary(texts={str(path)!r}, alpha=0.3)"
    seg(PICTURE, [["cat", "kitten"], "dog"], steps=[step, "kept"])
    (given,) = kept
    names = seg.text_bank.embed(("cat", "kitten", "dog", "a small animal"), seg.settings.templates)
    mixed = torch.stack([0.7 * names[0] + 0.3 * names[3], 0.7 * names[1] + 0.3 * names[3], names[2]])
    golden.assert_equal(given.scores, given.features @ mixed.T, 1e-4)
    path.write_text('["cat"]')
    with pytest.raises(FileFormatError, match="map classes to texts"):
        seg(PICTURE, ["cat"], steps=[step])
    for step in ("auxiliary", "enrich"):
        with pytest.raises(SettingError, match="=FILE"):
            Settings(steps=(step,))
