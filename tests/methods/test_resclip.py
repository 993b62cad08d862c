"""ResCLIP's parts, each against the plainest way to compute it."""

from __future__ import annotations

import math

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.imaging.refine import pamr
from sclip_plugin.methods import make_method
from sclip_plugin.methods.resclip import ResCLIP, line_leaves_label, patch_labels, same_label, smooth_rows
from sclip_plugin.towers import find_tower

from .models import TEXT, golden_model

pytestmark = pytest.mark.usefixtures("without_gradients")

PICTURE = golden.arrays("inputs")["pixels.112x160"]
BASES = {
    "naclip": make_method("naclip"),
    "csa": make_method("csa"),
    "clearclip": make_method("clearclip", {"temperature": 1.5}),
    "vanilla": make_method("vanilla", {"residual": False}),
}


def reach(method):
    return method.reach_last_block(find_tower(golden_model()), PICTURE)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("with_feedback", [False, True], ids=["rcs", "rcs+sfr"])
def test_the_formula_with_explicit_maps(base, with_feedback):
    (tau_r, lambda_r), (tau_s, lambda_s) = (2.0, 0.3), (2.2, 0.7)
    method = make_method("resclip", {"base": base, "text": TEXT} | ({} if with_feedback else {"sfr": None}))
    block, context = reach(method)
    S = method.semantic_feedback(block, context) if with_feedback else None

    omega = base.bias(block, context)
    A = 0
    for a, b in base.similarities(block):
        z = block.scale * base.temperature * a @ b.mT
        if with_feedback:
            z = tau_s * ((1 - lambda_s) * z + (lambda_s * S).float())
        A = A + (z if omega is None else z + omega).softmax(dim=-1)
    A_bar = torch.stack([context.taps[index].attention_map() for index in (5, 6, 7, 8)]).mean(dim=0)
    A = tau_r * ((1 - lambda_r) * A + lambda_r * A_bar)
    expected = base.combine(block, block.out(A @ block.v))
    assert golden.relative_difference(method(block, context), expected) < 1e-5


def test_both_parts_off_is_the_base():
    ours = sp.dense_features(golden_model(), PICTURE, "resclip", base="naclip", rcs=None, sfr=None)
    assert torch.equal(ours, sp.dense_features(golden_model(), PICTURE, "naclip"))


def test_feedback_is_1_within_and_0_on_cls():
    method = make_method("resclip", {"text": TEXT})
    S = method.semantic_feedback(*reach(method))
    assert S.dtype == torch.float16 and S.shape == (2, 1, 71, 71)
    assert (S[:, :, 0] == 0).all() and (S[:, :, :, 0] == 0).all()
    assert (S.amax(dim=(1, 2, 3)) == 1).all() and (S >= 0).all()


@pytest.mark.parametrize("names", [11, 90], ids=["fewer names than patches", "more"])
def test_the_first_pass_is_upsampling_pamr_and_the_likeliest_name(names):
    generator = torch.Generator().manual_seed(0)
    cosine = torch.randn(7 * 10, names, generator=generator)
    pixels = PICTURE[0]
    logits = torch.nn.functional.interpolate(cosine.T.view(1, names, 7, 10), size=pixels.shape[1:], mode="bilinear")
    best, label = (5.0 * pamr(logits, pixels[None]))[0].softmax(dim=0).max(dim=0)
    threshold = best.median().item()
    expected = label.where(best >= threshold, 0)
    options = {"text": torch.zeros(names, 64), "sfr_threshold": threshold, "logit_scale": 5.0}
    method = make_method("resclip", options)
    assert (method.first_pass(cosine, pixels, (7, 10)) == expected).float().mean() > 0.999


def test_gradients_pass_beside_the_first_pass():
    model, method = golden.model(), make_method("resclip", {"text": TEXT})
    model.requires_grad_(True)
    with torch.enable_grad():
        features = sp.dense_features(model, PICTURE, method)
        features.square().mean().backward()
    assert torch.equal(features.detach(), sp.dense_features(golden_model(), PICTURE, method))
    weights = next(find_tower(model).trunk.parameters())
    assert weights.grad.isfinite().all() and weights.grad.any()


@pytest.mark.parametrize("names", [11, 90], ids=["fewer names than patches", "more"])
def test_torch_compile_finds_no_graph_break_in_the_first_pass(names):
    method = make_method("resclip", {"text": torch.randn(names, 64)})
    cosine = torch.randn(70, names, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(method.first_pass, fullgraph=True, backend="eager")
    assert torch.equal(compiled(cosine, PICTURE[0], (7, 10)), method.first_pass(cosine, PICTURE[0], (7, 10)))


def test_the_first_pass_is_in_single_precision_under_autocast(monkeypatch):
    seen = []
    first_pass = ResCLIP.first_pass
    monkeypatch.setattr(ResCLIP, "first_pass", lambda self, c, *rest: seen.append(c) or first_pass(self, c, *rest))
    with torch.autocast("cpu", torch.bfloat16):
        sp.dense_features(golden_model(), PICTURE, make_method("resclip", {"text": TEXT}))
    assert all((cosine.bfloat16().float() != cosine).float().mean() > 0.9 for cosine in seen)
    assert len(seen) == len(PICTURE)


def test_needs_text_only_for_sfr():
    assert make_method("resclip").needs_text
    assert not make_method("resclip", {"sfr": None}).needs_text
    with pytest.raises(ValueError, match="needs the text embeddings.*sfr=None"):
        sp.dense_features(golden_model(), PICTURE, "resclip")
    assert sp.dense_features(golden_model(), PICTURE, "resclip", sfr=None).isfinite().all()


@pytest.mark.parametrize("base", ["maskclip", "gem", "scclip", make_method("resclip")], ids=str)
def test_bases_that_are_no_softmax_of_similarities(base):
    with pytest.raises(ValueError, match="not a softmax of similarities"):
        make_method("resclip", {"base": base})


def test_bases_that_do_not_exist():
    with pytest.raises(ValueError, match="unknown method 'nacilp'. Did you mean 'naclip'"):
        make_method("resclip", {"base": "nacilp"})


@pytest.mark.parametrize("given", [0.3, (2.0,), (2.0, 0.3, 1.0), "on"])
def test_parts_that_are_no_pairs(given):
    with pytest.raises(ValueError, match="rcs"):
        make_method("resclip", {"rcs": given})


def test_methods_with_the_same_options_are_equal_whatever_their_text():
    with_text = make_method("resclip", {"text": TEXT})
    assert with_text == make_method("resclip") and hash(with_text) == hash(make_method("resclip"))
    assert "text" not in repr(with_text)


def test_patch_labels_are_the_mode_and_of_equals_the_smallest():
    labels = torch.tensor([[[3, 3, 1, 2], [1, 3, 2, 1], [0, 0, 4, 4], [4, 4, 4, 0]]])
    assert patch_labels(labels, (2, 2), (2, 2), classes=5).tolist() == [[[3, 1], [0, 4]]]
    # Rows and columns of pixels that fill no patch have no say.
    more = torch.nn.functional.pad(labels, (0, 1, 0, 1), value=2)
    assert torch.equal(patch_labels(more, (2, 2), (2, 2), classes=5), patch_labels(labels, (2, 2), (2, 2), classes=5))


@pytest.mark.parametrize("grid", [(7, 10), (9, 7), (1, 6), (5, 5), (11, 3), (1, 1), (4, 21)], ids=str)
def test_line_test(grid):
    """Against Python's own rounding (half to even) of exact fractions, pair by pair."""
    from fractions import Fraction

    h, w = grid
    labels = torch.randint(0, 3, (2, h, w), generator=torch.Generator().manual_seed(3))
    found = line_leaves_label(labels)
    steps = max(h - 1, w - 1)
    for picture, ours in zip(labels.tolist(), found, strict=True):
        for i in range(h * w):
            for j in range(h * w):
                (r, c), (R, C) = divmod(i, w), divmod(j, w)
                D = max(abs(R - r), abs(C - c))
                line = [Fraction(step, steps) for step in range(D + 1)] if steps else []
                samples = [(round(r + t * (R - r)), round(c + t * (C - c))) for t in line]
                assert ours[i, j].item() == any(picture[y][x] != picture[r][c] for y, x in samples)


def test_similarity_of_labels():
    """1 within a label, weakened by distance where another lies between; smoothed over j and divided by row sums."""
    labels = torch.tensor([[[0, 0, 1, 0]]])
    weak = [math.exp(-D / 3) for D in range(4)]
    # Between patches 1 and 3 (D = 2) only the samples at t = 0, 1/3 and 2/3 are looked at: columns 1, 2, 2 and 3, 2, 2.
    M = torch.tensor([[[1, 1, 0, weak[3]], [1, 1, 0, weak[2]], [0, 0, 1, 0], [weak[3], weak[2], 0, 1]]])
    smoothed = smooth_rows(M)
    golden.assert_equal(same_label(labels, True), smoothed / smoothed.sum(-1, keepdim=True))
    plain = smooth_rows((labels.flatten()[:, None] == labels.flatten()).float()[None])
    golden.assert_equal(same_label(labels, False), plain / plain.sum(-1, keepdim=True))


@pytest.mark.parametrize(("count", "taps"), [(100, 31), (31, 31), (30, 31), (12, 13), (7, 7), (1, 1)])
def test_smoothing(count, taps):
    rows = torch.randn(2, 3, count)
    kernel = [math.exp(-((t - taps // 2) ** 2) / 50) for t in range(taps)]
    expected = torch.zeros_like(rows)
    for j in range(count):
        for t, weight in enumerate(kernel):
            if 0 <= j + t - taps // 2 < count:
                expected[..., j] += weight / sum(kernel) * rows[..., j + t - taps // 2]
    golden.assert_equal(smooth_rows(rows), expected.clamp_min(0))
