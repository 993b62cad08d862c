"""What timm's and open_clip's users rely on beside the tokens: intermediates, output tokens, positions, masks."""

from __future__ import annotations

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.towers import find_tower

from .models import timm_trunk, timm_vit
from .table import CASES, Case

pytestmark = pytest.mark.usefixtures("without_gradients")

HAVE_INTERMEDIATES = [
    case for case in CASES.values() if hasattr(find_tower(case.shared_model()).trunk, "forward_intermediates")
]
TIMM = [case for case in HAVE_INTERMEDIATES if case.name.startswith("timm")]
OPEN_CLIP = [case for case in HAVE_INTERMEDIATES if case.name.startswith("open_clip") and "timm" not in case.name]


def flat(output) -> list[torch.Tensor]:
    """All tensors of nested dicts, lists and tuples, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in (output.values() if isinstance(output, dict) else output) for tensor in flat(part)]


def assert_close(ours, theirs) -> None:
    ours, theirs = flat(ours), flat(theirs)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert golden.relative_difference(a, b) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"indices": 2, "norm": True},
        {"indices": [1, -1], "output_fmt": "NLC", "return_prefix_tokens": True},
        {"indices": [0], "intermediates_only": True, "stop_early": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", TIMM, ids=str)
def test_timm_intermediates_under_vanilla_are_the_models_own(case: Case, options):
    if case.shared_model().num_prefix_tokens == 0 and "return_prefix_tokens" in options:
        options = {**options, "return_prefix_tokens": False}
    ordinary = case.shared_model().forward_intermediates(case.pixels(), **options)
    with sp.applied(case.shared_model(), "vanilla", keep_cls=False) as model:
        assert_close(model.forward_intermediates(case.pixels(), **options), ordinary)


@pytest.mark.parametrize("case", TIMM, ids=str)
def test_timm_intermediates_end_with_the_dense_tokens(case: Case):
    pixels = case.pixels(size=case.other_size)
    with sp.applied(case.shared_model()) as model:
        final, intermediates = model.forward_intermediates(pixels, indices=2, norm=True, output_fmt="NLC")
        assert torch.equal(intermediates[-1], case.patches(model, pixels))
        assert torch.equal(final, model.forward_features(pixels))


def test_timm_features_only_wraps_a_model_that_can_be_patched():
    import timm

    wrapper = timm.create_model(
        "vit_tiny_patch16_224", features_only=True, out_indices=[-2, -1], img_size=32, depth=3, pretrained=False
    ).eval()
    pixels = torch.randn(1, 3, 32, 48)
    with pytest.raises(AssertionError):
        wrapper(pixels)
    sp.apply(wrapper.model)
    *_, last = wrapper(pixels)
    assert last.shape[2:] == (2, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"indices": 2, "normalize_intermediates": True},
        {"indices": [1, -1], "output_fmt": "NLC", "output_extra_tokens": True},
        {"indices": [0], "intermediates_only": True, "stop_early": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", OPEN_CLIP, ids=str)
def test_open_clip_intermediates_under_vanilla_are_the_models_own(case: Case, options):
    trunk, pixels = getattr(case.shared_model(), "visual", case.shared_model()), case.pixels()
    ordinary = trunk.forward_intermediates(pixels, **options)
    with sp.applied(case.shared_model(), "vanilla", keep_cls=False):
        ours = trunk.forward_intermediates(pixels, **options)
    assert list(ours) == list(ordinary)
    assert_close(ours, ordinary)


@pytest.mark.parametrize("case", OPEN_CLIP, ids=str)
def test_open_clip_intermediates_end_with_the_dense_tokens(case: Case):
    trunk, pixels = getattr(case.shared_model(), "visual", case.shared_model()), case.pixels(size=case.other_size)
    with sp.applied(case.shared_model()) as model:
        output = trunk.forward_intermediates(pixels, indices=1, output_fmt="NLC")
        joint = trunk.ln_post(output["image_intermediates"][0]) @ trunk.proj
        assert golden.relative_difference(joint, case.to_joint(model, case.patches(model, pixels))) < 1e-5
        assert torch.equal(output["image_features"], case.embedding(model, pixels))


def test_open_clip_encode_image_and_logits_are_kept():
    case = CASES["open_clip"]
    model, pixels, texts = case.model(), case.pixels(), torch.tensor([[49406, 320, 49407] + 74 * [0]])
    before = model(pixels, texts)
    after = sp.apply(model)(pixels, texts)
    assert golden.relative_difference(after[0], before[0]) < 2e-6
    assert torch.equal(after[1], before[1])


def test_openai_logits_are_kept():
    case = CASES["openai"]
    model, pixels, texts = case.model(), case.pixels(), torch.tensor([[49406, 320, 49407] + 74 * [0]])
    before, _ = model(pixels, texts)
    after, _ = sp.apply(model)(pixels, texts)
    assert golden.relative_difference(after, before) < 2e-6


def test_openai_trunk_returns_tokens_when_asked_as_open_clip_is():
    model = sp.apply(CASES["openai"].model())
    pixels = CASES["openai"].pixels()
    assert model.visual(pixels).shape == (2, 64)
    model.visual.output_tokens = True
    assert [part.shape for part in model.visual(pixels)] == [(2, 64), (2, 49, 128)]


def test_timm_without_keep_cls_pools_the_dense_patches():
    case = CASES["timm_average"]
    model, pixels = case.model(), case.pixels()
    sp.apply(model, keep_cls=False)
    assert torch.equal(model(pixels), model.forward_head(model.forward_features(pixels)))


def test_timm_with_dynamic_size_resizes_positions_as_size_antialias_does():
    torch.manual_seed(0)
    model = timm_vit(dynamic_img_size=True)().eval()
    pixels = torch.randn(2, 3, 24, 48)
    ordinary = model.forward_features(pixels)
    sp.apply(model, "vanilla", keep_cls=False, position_resize="size_antialias")
    assert golden.relative_difference(model.forward_features(pixels), ordinary) < 1e-5


@pytest.mark.parametrize("name", [n for n in ("eva02_clip", "perception_encoder") if f"timm_{n}" in CASES])
def test_rotary_positions_of_another_grid_are_timms_own(name: str):
    from timm.models.eva import Eva

    from .case import randomise
    from .models import EVAS

    model = randomise(Eva(**{**EVAS[name], "dynamic_img_size": True})).eval()
    pixels = torch.randn(2, 3, 24, 48)
    ordinary = model.forward_features(pixels)
    sp.apply(model, "vanilla", keep_cls=False, position_resize="size_antialias")
    assert golden.relative_difference(model.forward_features(pixels), ordinary) < 1e-5
    fixed = randomise(Eva(**EVAS[name])).eval()  # caches the rotations of its own grid
    sp.apply(fixed, "vanilla", keep_cls=False, position_resize="size_antialias")
    assert golden.relative_difference(fixed.forward_features(pixels), ordinary) < 1e-5


def test_timm_attention_masks_are_refused_with_a_remedy():
    trunk = timm_trunk(sp.apply(CASES["timm"].model()))
    with pytest.raises(ValueError, match=r"takes no attn_mask; call sclip_plugin.restore"):
        trunk.forward_features(CASES["timm"].pixels(), attn_mask=torch.zeros(50, 50))
