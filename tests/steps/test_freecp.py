"""FreeCP against its arithmetic written out window by window, and what each of its two purifications does."""

from __future__ import annotations

import json

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.dense import image_embeddings
from sclip_plugin.steps.freecp import FreeCP, groups
from sclip_plugin.towers.running import before_last_block

pytestmark = pytest.mark.usefixtures("without_gradients", "own_registries")

PICTURE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (120, 150, 3), dtype=np.uint8))
LABELS = {"background": ["sky", "wall"], "cat": ["cat"], "dog": ["dog"], "person": ["person"]}


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter(
        golden.model(), golden.tokenizer(), cache_dir=False, templates="plain", window=112, stride=56,
        resize_short_side=0, logit_scale=100,
    )  # fmt: skip


def one_window(seg, given, number, step):
    """The maps that are left of one window, (N, K), in loops; boxes by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    h, w = given.scores.shape[1:3]
    pixels = (given.window_pixels()[number] - seg.encoder.mean[:, None, None]) / seg.encoder.std[:, None, None]
    block, context = before_last_block(seg.tower, pixels[None], tuple(range(11)), "scale_factor")
    M = torch.stack([context.taps[i].attention_map()[0].mean(dim=0) for i in range(11)]).mean(dim=0)[1:, 1:]
    for _ in range(3):
        M = M / M.sum(dim=0, keepdim=True)
        M = M / M.sum(dim=1, keepdim=True)
    M = (M + M.T) / 2
    M = M @ M
    p = (100 * given.scores[number].flatten(0, 1)).softmax(dim=1)
    m = (p - p.min()) / (p.max() - p.min())

    def found(values):
        eight = (values.reshape(h, w).numpy() * 255).astype(np.uint8)
        binary = cv2.threshold(eight, int(0.4 * eight.max()), 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        rects = [cv2.boundingRect(contour) for contour in contours]
        return sorted((y, x, min(y + b, h - 1), min(x + a, w - 1)) for x, y, a, b in rects)

    maps = {}
    for name in range(2, p.shape[1]):
        inside = torch.zeros(h, w)
        for top, left, bottom, right in found(m[:, name]):
            inside[top:bottom, left:right] = 1
        r = (M * inside.flatten()) @ m[:, name]
        r = (r - r.min()) / (r.max() - r.min() + 1e-8)
        if (p[:, name] * r).sum() / (p[:, name].sum() + r.sum() + 1e-8) > step.redundancy:
            maps[name] = r
    stay = set()
    for group in groups(torch.stack(list(maps.values()), dim=1), step.ambiguity) if maps else []:
        members = [list(maps)[i] for i in group]
        if len(members) == 1:
            stay.update(members)
            continue
        for top, left, bottom, right in found(torch.stack([maps[i] for i in members]).mean(dim=0)):
            if top == bottom or left == right:
                stay.update(members)
                continue
            cut = pixels[None, :, top * 16 : bottom * 16, left * 16 : right * 16]
            embedding = image_embeddings(seg.tower, F.interpolate(cut, size=(112, 112), mode="bilinear"))
            stay.add(members[int((F.normalize(embedding, dim=1) @ given.words.text[members].T).argmax())])
    out = torch.zeros_like(p)
    out[:, :2] = -1
    for name in stay:
        out[:, name] = maps[name]
    return out


@pytest.mark.parametrize("options", ["", ", redundancy=0.0, ambiguity=0.1", ", redundancy=0.02, ambiguity=0.4"])
def test_against_loops(seg, kept, options):
    text = f"freecp(background=True{options})"
    result = seg(PICTURE, LABELS, method="clearclip", steps=["kept", text, "kept", "freecp_background"])
    before, after = kept
    step = sp.steps.make_step(text)
    for number in range(len(before.boxes)):
        ours = after.scores[number].flatten(0, 1)
        theirs = one_window(seg, before, number, step)
        assert (ours - theirs).abs().max() < 1e-4, (number, (ours - theirs).abs().max())
    # Background is what the others leave, pixel by pixel.
    assert np.allclose(result.scores[0], 1 - result.scores[1:].max(axis=0), atol=1e-5)


@pytest.mark.parametrize("size", [(203, 97), (40, 50)])
def test_background_is_what_the_others_leave_at_the_picture_s_own_size(seg, size):
    """Not at the size that windows were cut from, where the largest of the scores is another one."""
    picture, how = PICTURE.resize(size[::-1]), {"method": "clearclip", "resize_short_side": 112}
    patches = "freecp(background=True, redundancy=0.0)"
    before = seg(picture, LABELS, steps=patches, **how)
    result = seg(picture, LABELS, steps=[patches, "freecp_background"], **how)
    names = before._scores.maps.full()  # at the picture's size; the first two are background's
    assert names.shape == (*size, 5)
    others = names[..., 2:].amax(dim=-1)
    expected = torch.stack([1 - others.clamp(min=0), *names[..., 2:].unbind(dim=-1)])
    golden.assert_equal(torch.from_numpy(result.scores), expected)
    assert (result.label_map == expected.argmax(dim=0).numpy()).mean() > 0.9999
    cut = seg(golden.prepared(seg.prepare(picture, **how).pixels), LABELS, steps=patches, **how)._scores.maps.full()
    resized = 1 - cut[..., 2:].amax(dim=-1)
    resized = F.interpolate(resized[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    assert (resized - expected[0]).abs().max() > 1e-3


def test_groups():
    a, b, c = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0.8, 0, 0]), torch.tensor([0, 0, 1.0, 1])
    assert groups(torch.stack([a, c, b], dim=1), 0.7) == [[0, 2], [1]]
    assert groups(torch.stack([a, c, b], dim=1), 0.95) == [[0], [1], [2]]


def test_a_threshold_that_nothing_passes_leaves_background(seg):
    result = seg(PICTURE, LABELS, steps=["freecp(background=True, redundancy=1.0)", "freecp_background"])
    assert (result.label_map == 0).all() and np.allclose(result.scores[0], 1)


def test_texts_of_boxes(seg, tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"cat": "a small animal"}))

    @sp.register_step("looked")
    class Looked(sp.Step):
        on = "patches"

        def __call__(self, given):
            text = FreeCP(texts=str(path)).of_boxes(given)
            assert torch.equal(text[[0, 1, 3, 4]], given.words.text[[0, 1, 3, 4]])
            golden.assert_equal(text[2:3], given.words.embed(["a small animal"]))
            return given.scores

    seg(PICTURE, LABELS, steps=["looked"])
