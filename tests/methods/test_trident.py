"""Trident: the published arrays, what the published code can't do, and every way in."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F
from outside_models import transformers_model
from PIL import Image
from rounding import ULPS, assert_same

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.guides import find_guide
from sclip_plugin.guides.prompts import SamPicture, row_blocks
from sclip_plugin.methods import make_method, trident
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.running import WholePicture, Window

pytestmark = pytest.mark.usefixtures("without_gradients")

ARRAYS = golden.arrays("Trident")
LABELS = [["sky", "wall", "tree", "grass", "road"], "cat", "dog", "person", "potted plant"]
RUNS = {
    "trident": {"steps": "benchmark(prob=0.45)"},
    "trident_no_threshold": {"cos_fac": 0.0},
    "trident_replaced": {"keep_negative": False, "cos_fac": 6.0},
    "trident_dino14": {"guide": "dino14"},
    "trident_dino8": {"guide": "dino8"},
    "trident_halves": {"keep_negative": False, "cos_fac": 3.0, "halves": 2},
}


def options(**changes):
    return {
        "guide": transformers_model(changes.pop("guide", "dino16")), "sam": transformers_model("sam"),
        "window": 112, "stride": 64, **changes,
    }  # fmt: skip


def given(tag: str) -> tuple[Image.Image, torch.Tensor, tuple[int, int]]:
    """The picture that SAM is given, the pixels that CLIP is given, and the size of the label map."""
    source = "trident_halves" if tag == "trident_halves" else "trident"
    picture = Image.fromarray(ARRAYS[f"{source}.picture"].numpy())
    return picture, ARRAYS[f"{source}.pixels"][0], picture.size[::-1]


def segmenter(**changes) -> sp.Segmenter:
    return sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, method="trident", **changes)


@pytest.mark.parametrize("tag", RUNS)
def test_a_picture_is_the_published_one(tag: str, monkeypatch):
    bank = "sclip_plugin.text.bank.TextBank.embed_vocabulary"
    monkeypatch.setattr(bank, lambda self, vocabulary, templates: ARRAYS["text_bank"])
    method = options(**RUNS[tag])
    seg = segmenter(logit_scale=250, **method)
    picture, pixels, size = given(tag)

    def computed() -> tuple[torch.Tensor, torch.Tensor, sp.Segmentation]:
        encoded = seg.encode(golden.prepared(pixels, size, picture), dtype=torch.float32)
        result = encoded.segment(LABELS)
        return encoded.vectors.permute(2, 0, 1)[None], result._scores.maps.full().permute(2, 0, 1)[None], result

    generator, exact = torch.Generator().manual_seed(0), trident.thresholds

    def nudged(*arguments) -> torch.Tensor:
        """The thresholds up to `ULPS` units away: the authors sum all pairs for them, and round each time."""
        t = exact(*arguments)
        return t * (1 + ULPS * torch.finfo(t.dtype).eps * (2 * torch.rand(t.shape, generator=generator) - 1))

    def rounded() -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(trident, "thresholds", nudged)
            return every(computed()[1])

    features, logits, result = computed()
    features = features[..., ::4, ::4]
    margins = [ARRAYS[key] for key in (f"{tag}.correlation_margin{part}.every4" for part in (0, 1)) if key in ARRAYS]
    away = (torch.cat(margins, dim=3) > 2e-6).expand_as(features)
    theirs = F.normalize(ARRAYS[f"{tag}.features.every4"], dim=1)
    assert away.float().mean() > 0.95
    assert (features - theirs).abs()[away].max() < 1e-5 * theirs.abs().max()

    # Pixels read rows that are near a threshold, and rows that are not.
    models = [seg.model, method["guide"], method["sam"]]
    if f"{tag}.logits.every4" in ARRAYS:
        theirs, every = ARRAYS[f"{tag}.logits.every4"], golden.every_fourth
    else:
        theirs, every = ARRAYS[f"{tag}.logits"], torch.clone
    assert ((every(logits) - theirs).abs() / theirs.abs().max()).quantile(0.98) < 1e-5
    assert_same(every(logits), theirs, rounded, models)
    assert (torch.from_numpy(result.label_map) == ARRAYS[f"{tag}.labels"][0]).float().mean() >= 0.9999


def test_each_step_is_the_published_one():
    """Windows, splice and correlation, each from what the authors' code had before it."""
    method = make_method("trident", {k: v for k, v in options().items() if k in ("guide", "sam")})
    picture, pixels, _ = given("trident")
    whole = WholePicture(pixels, picture, 112, 64)
    tower = find_tower(golden.model())
    block, context = method.reach_last_block(tower, pixels[None], windows=[Window(whole, (0, 0, *pixels.shape[1:]))])
    assert [window.box[:2] for window in context.windows] == [(0, 0), (0, 48), (16, 0), (16, 48)]
    attended = method.attended(block, context, slice(0, 4))
    away = (ARRAYS["trident.margin"] > 2e-6).expand_as(attended)
    theirs = ARRAYS["trident.windows"]
    assert (attended - theirs).abs()[away].max() < 1e-5 * theirs.abs().max()

    sam = method.sam_guide(tower)
    seen = sam.read(picture, (16, 16))
    values = seen.values.transpose(1, 2).flatten(0, 1).unflatten(1, seen.valid)[None, :, ::4, ::4]
    golden.assert_equal(values, ARRAYS["trident.sam_values.every4"])
    spliced = trident.splice(theirs, context.windows, context.grid, (16, 16))
    resized = F.interpolate(spliced[None], size=seen.valid, mode="bilinear", align_corners=False)
    golden.assert_equal(golden.every_fourth(resized), ARRAYS["trident.spliced.every4"])

    unit = F.normalize(seen.values, dim=-1)
    t = trident.thresholds(unit, 1.2, True)
    rows = [trident.correlation_rows(seen, unit, t, part) for part in row_blocks(len(t))]
    theirs = ARRAYS["trident.correlation.rows193"]
    margin = torch.stack([((unit @ unit[:, i, :, None])[..., 0] - t[i]).abs().min() for i in range(0, len(t), 193)])
    ours = torch.cat(rows)[::193]
    assert golden.relative_difference(ours[margin > 2e-6], theirs[margin > 2e-6]) < 1e-5


def test_thresholds_are_those_of_all_pairs():
    unit = F.normalize(torch.randn(2, 30, 4), dim=-1)
    mean = (unit @ unit.mT).mean(dim=(0, 2))
    golden.assert_equal(trident.thresholds(unit, 1.2, True), (1.2 * mean).clamp(max=0.9))
    replaced = torch.where(mean < 0, 0.6, 30 * mean).clamp(max=0.9)
    golden.assert_equal(trident.thresholds(unit, 30.0, False), replaced)
    assert (replaced == 0.6).any() and (replaced == 0.9).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (80, 160), (130, 112)])
def test_any_picture(size: tuple[int, int]):
    """Uniform and noise, smaller than a patch of any of the models, oblong, below the window though p divides it."""
    seg = segmenter(resize_short_side=0, **options(guide="dino14"))
    for picture in (torch.full((3, *size), 127, dtype=torch.uint8), torch.randint(0, 256, (3, *size)).byte()):
        results = seg([picture, picture], ["cat", "dog"])
        assert results[0].label_map.shape == size and (results[0].label_map == results[1].label_map).all()


@pytest.mark.parametrize("changes", [{"window": 0}, {"window": 70, "stride": 40}, {"halves": 3}, {"guide": "mae"}])
def test_other_windows_and_parts(changes):
    """Windows that are whole pictures, or no multiples of the patch; parts that do not divide the width."""
    picture, _, size = given("trident")
    assert segmenter(**options(**changes))(picture, ["cat", "dog"]).label_map.shape == size


def test_sides_and_windows():
    assert trident.in_patches(torch.zeros(1, 3, 112, 153), (16, 16), 112).shape[2:] == (128, 160)
    assert trident.in_patches(torch.zeros(1, 3, 80, 160), (16, 16), 112).shape[2:] == (112, 160)
    assert trident.in_patches(torch.zeros(1, 3, 90, 70), (16, 16), 0).shape[2:] == (96, 80)
    assert trident.boxes_of((96, 80), 70, 40, (16, 16)) == [(t, lft, 64, 64) for t in (0, 32) for lft in (0, 16)]


def test_without_windows_the_pixels_are_the_picture():
    """Functional, and as a segmenter sees a picture in one window: the same patches."""
    picture = (golden.arrays("inputs")["pixels.112x112"] * 40 + 127).clamp(0, 255).byte()
    both = {k: v for k, v in options().items() if k in ("guide", "sam")}
    seg = segmenter(**options(window=0, resize_short_side=0))
    pixels = (picture.float() / 255 - seg.encoder.mean[:, None, None]) / seg.encoder.std[:, None, None]
    model = golden.model()

    def functional() -> torch.Tensor:
        return F.normalize(sp.dense_features(model, pixels, "trident", **both), dim=1)

    features = functional()
    assert features.shape == (2, 64, 64, 64)
    encoded = seg.encode([p for p in picture], dtype=torch.float32)
    theirs = torch.stack([each.vectors.permute(2, 0, 1) for each in encoded])
    assert_same(features, theirs, functional, [model, *both.values()])
    for each in encoded:
        golden.assert_equal(each.windows[0], each.image)


def test_in_place_is_refused():
    both = {k: v for k, v in options().items() if k in ("guide", "sam")}
    with pytest.raises(UnsupportedModelError):
        sp.apply(golden.model(), "trident", **both)


@pytest.mark.parametrize("framework", ["open_clip", "timm", "openai"])
def test_every_framework(framework: str):
    pixels = golden.arrays("inputs")["pixels.112x112"][:1]
    both = {k: v for k, v in options().items() if k in ("guide", "sam")}
    model = golden.model(framework)

    def computed() -> torch.Tensor:
        return sp.dense_features(model, pixels, "trident", **both)

    theirs = sp.dense_features(golden.model(), pixels, "trident", **both)
    assert ((computed() - theirs).abs() / theirs.abs().max()).quantile(0.9) < 1e-5
    assert_same(computed(), theirs, computed, [model, *both.values()])  # rows near their threshold


def test_sam_reads_a_picture_once_and_another_anew():
    sam = find_guide(transformers_model("sam"))
    picture, other = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    first = sam.read(picture, (16, 16))
    assert isinstance(first, SamPicture) and sam.read(picture.copy(), (16, 16)) is first
    assert (first.size, first.inside, first.valid) == ((32, 48), (683, 1024), (42, 64))
    assert sam.read(other, (16, 16)) is not first
    assert sam.read(picture, (16, 16), (1, 2)).size == (32, 24)


def test_what_is_wrong_is_said():
    pixels = torch.zeros(1, 3, 112, 112)
    with pytest.raises(sp.SclipError, match="sam=3; expected a model's name or a folder, or a model"):
        sp.dense_features(golden.model(), pixels, "trident", guide=transformers_model("dino16"), sam=3)
    with pytest.raises(sp.SclipError, match="trident got ViTModel for sam; expected SAM"):
        sp.dense_features(
            golden.model(), pixels, "trident", guide=transformers_model("dino16"), sam=transformers_model("dino16")
        )
