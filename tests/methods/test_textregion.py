"""TextRegion: the published arrays, and every way in."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.defaults import CLIP_MEAN, CLIP_STD
from sclip_plugin.dense import projected
from sclip_plugin.imaging.resampling import normalise, resize
from sclip_plugin.masks import find_masks
from sclip_plugin.methods.textregion import TextRegion
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.running import WholePicture, Window, before_last_block

pytestmark = pytest.mark.usefixtures("without_gradients")

ARRAYS = golden.arrays("TextRegion")
HOLE = (slice(60, 140), slice(100, 180))
RUNS = {
    "textregion": TextRegion(ffn=True, fill=False),
    "textregion_low": TextRegion(ffn=True, fill=False, threshold=-0.02),
    "textregion_all": TextRegion(ffn=True, fill=False, threshold=None),
}


def seen(masks):
    """The picture as the authors resize it: short side 230, bilinear, 8 bits."""
    pixels = resize(ARRAYS["picture"].permute(2, 0, 1), (230, 383))
    whole = WholePicture(pixels, masks=lambda: masks.numpy())
    normal = normalise(pixels, torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD))[None]
    return normal, [Window(whole, (0, 0, 230, 383))]


@pytest.mark.parametrize("name", RUNS)
def test_regions_are_the_published_ones(name):
    pixels, windows = seen(ARRAYS["masks"].float() / 100)
    rows, ran, _ = projected(find_tower(golden.model()), pixels, RUNS[name], windows, embedding=False)
    unit = F.normalize(rows[0], dim=1)
    golden.assert_equal(unit, ARRAYS[f"{name}.region_features"])
    logits = unit @ ARRAYS["text_bank"].T
    golden.assert_equal(logits, ARRAYS[f"{name}.region_logits"])
    scores = (50 * ran.spread(logits)).softmax(dim=-1)
    golden.assert_equal(golden.every_fourth(scores.amax(dim=-1))[None], ARRAYS[f"{name}.best_score.every4"])
    assert (scores.argmax(dim=-1) == ARRAYS[f"{name}.labels"][0]).all()


def test_the_benchmarks_pictures_are_the_published_ones():
    """No FFN; a hole that no mask covers takes SCLIP's scores; background by several names and a threshold."""
    masks = ARRAYS["masks"].float() / 100
    masks[(slice(None), *HOLE)] = 0
    pixels, windows = seen(masks)
    rows, ran, _ = projected(find_tower(golden.model()), pixels, TextRegion(), windows, embedding=False)
    logits = ran.spread(F.normalize(rows[0], dim=1) @ ARRAYS["benchmark.text_bank"].T)
    logits = F.interpolate(logits.permute(2, 0, 1)[None], (90, 150), mode="bilinear")[0]
    of_names = (50 * logits).softmax(dim=0)
    scores = torch.cat([of_names[:3].amax(dim=0, keepdim=True), of_names[3:]])
    golden.assert_equal(golden.every_fourth(scores), ARRAYS["benchmark.scores.every4"])
    labels = scores.argmax(dim=0).masked_fill(scores.amax(dim=0) < 0.35, 0)
    assert (labels == ARRAYS["benchmark.labels"][0]).all()


@pytest.mark.parametrize(("cell", "halves", "counts"), [(64, 1, (3, 5)), (112, 2, (2, 3)), (240, 3, (1, 1))])
def test_cells_have_the_size_that_is_asked_for_and_halves_stand_for_the_whole(cell, halves, counts):
    """What each patch of each view gives to a region, added up in loops: the whole (or its parts), then the cells."""
    mask = torch.zeros(1, 230, 383)
    mask[0, 40:200, 100:300] = 1
    pixels, windows = seen(mask)
    method = TextRegion(threshold=None, fill=False, cell=cell, halves=halves)
    rows, _, _ = projected(find_tower(golden.model()), pixels, method, windows, embedding=False)

    g, (down, across) = cell // 16, counts
    width = across * g
    bounds = [383 * i // halves for i in range(halves + 1)], [width * i // halves for i in range(halves + 1)]
    high, wide = -(-230 // down), -(-383 // across)
    tower = find_tower(golden.model())

    def values(view):
        square = F.interpolate(view, (cell, cell), mode="bicubic", antialias=True)
        block, _ = before_last_block(tower, square, (), "scale_factor")
        return block, block.v[:, :, 1:].transpose(1, 2).flatten(2).mT.unflatten(2, (g, g))

    V = torch.zeros(1, 128, down * g, width)
    for left, right, first, last in zip(bounds[0], bounds[0][1:], bounds[1], bounds[1][1:], strict=False):
        part = values(pixels[..., left:right])[1]
        V[..., first:last] = F.interpolate(part, (down * g, last - first), mode="bilinear", align_corners=False)
    for row in range(down):
        for column in range(across):
            top, left = min(row * high, 230 - high), min(column * wide, 383 - wide)
            block, part = values(pixels[..., top : top + high, left : left + wide])
            V[..., row * g : (row + 1) * g, column * g : (column + 1) * g] += part
    m = F.interpolate(mask[None], V.shape[-2:], mode="bilinear", align_corners=False)
    read = (m * V).sum(dim=(2, 3)).view(1, 1, block.num_heads, -1).transpose(1, 2)
    golden.assert_equal(rows, tower.project(block.out(read)))


def siglip():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=32, patch_size=8))
    trunk = getattr(model, "vision_model", model)

    def attended(x, outside):
        head = trunk.head
        probe, key = head.probe.expand(len(x), -1, -1), x.mean(dim=1, keepdim=True).expand_as(x)
        return head.attention(probe, key, x, key_padding_mask=outside)[0][:, 0]

    return model, lambda pixels: model(pixel_values=pixels).last_hidden_state, attended


def perception_encoder():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=24, class_token=True,
        global_pool="map", pre_norm=True,
    )  # fmt: skip

    def attended(x, outside):
        pool = model.attn_pool
        q = pool.q(pool.latent).expand(len(x), -1, -1).unflatten(2, (2, 16)).transpose(1, 2)
        v = pool.kv(x).unflatten(2, (2, 2, 16)).permute(2, 0, 3, 1, 4)[1]
        read = F.scaled_dot_product_attention(q, v.mean(dim=2, keepdim=True).expand_as(v), v, ~outside[:, None, None])
        return model.head(model.fc_norm(pool.proj(read.transpose(1, 2).flatten(2))[:, 0]))

    return model, lambda pixels: model.forward_features(pixels)[:, 1:], attended


@pytest.mark.parametrize("make", [siglip, perception_encoder])
def test_a_head_that_pools_by_attention_reads_each_region(make):
    """The authors' way with SigLIP 2 and PE: the head's attention, one key for all patches, closed to the others."""
    torch.manual_seed(0)
    model, normed, attended = make()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    picture = torch.randint(0, 256, (3, 32, 64), dtype=torch.uint8)
    masks = torch.zeros(2, 32, 64)
    masks[0, 3:20, 5:40], masks[1, 10:, 30:] = 0.7, 1.0
    pixels = normalise(picture, torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD))[None]
    windows = [Window(WholePicture(picture, masks=lambda: masks.numpy()), (0, 0, 32, 64))]
    method = TextRegion(threshold=None, fill=False)
    features, _, _ = projected(find_tower(model), pixels, method, windows, embedding=False)

    squashed = F.interpolate(pixels, (32, 32), mode="bicubic", antialias=True)
    whole, left, right = normed(torch.cat([squashed, pixels[..., :32], pixels[..., 32:]])).unflatten(1, (4, 4))
    whole = F.interpolate(whole.permute(2, 0, 1)[None], (4, 8), mode="bilinear")[0].permute(1, 2, 0)
    x = (0.5 * whole + torch.cat([left, right], dim=1)).flatten(0, 1)
    low = F.interpolate(masks.gt(0).float()[None] * masks, (4, 8), mode="bilinear")[0].flatten(1)
    golden.assert_equal(features[0], attended(x.expand(2, -1, -1), low <= 0))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 260, 3), dtype=np.uint8))


def test_a_segmenter_takes_it_and_asks_of_an_encoded_picture(segmenter):
    settings = {"method": "textregion", "masks": "slic(segments=12)"}
    result = segmenter(PICTURE, ["cat", "dog", "sofa"], **settings)
    assert result.size == (150, 260) and np.isfinite(result.scores).all()
    encoded = segmenter.encode(PICTURE, dtype=torch.float32, **settings)
    np.testing.assert_array_equal(encoded.segment(["cat", "dog", "sofa"]).label_map, result.label_map)
    # Each superpixel has one label, that of its token.
    ids = find_masks("slic(segments=12)")(PICTURE)
    assert all(len(np.unique(result.label_map[ids == i])) == 1 for i in np.unique(ids))


@pytest.mark.parametrize("size", [(1, 1), (40, 17), (260, 150)])
@pytest.mark.parametrize(("fill", "changes"), [(True, {}), (False, {}), (True, {"cell": 5, "halves": 16})])
def test_any_picture(segmenter, size, fill, changes):
    for picture in (Image.new("RGB", size[::-1], "grey"), PICTURE.resize(size[::-1])):
        for resize_short_side in (0, 230):
            result = segmenter(
                picture, ["cat", "dog"], method="textregion", fill=fill, masks="slic(segments=5)",
                resize_short_side=resize_short_side, **changes,
            )  # fmt: skip
            assert result.size == size and np.isfinite(result.scores).all()


def test_without_masks_and_in_place_it_is_refused(segmenter):
    with pytest.raises(sp.SclipError, match="textregion looks at masks"):
        segmenter(PICTURE, ["cat"], method="textregion")
    with pytest.raises(sp.SclipError, match="textregion looks at masks"):
        sp.dense_features(golden.model(), torch.zeros(1, 3, 112, 112), "textregion")
    with pytest.raises(sp.SclipError, match="dense_features"):
        sp.apply(golden.model(), "textregion")
