"""What single families need beyond the table of behaviours: their own arithmetic, and what is refused."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.towers import find_tower

from .case import randomise
from .families import cut
from .models import TINY_VISION, open_clip_model, timm_vit, transformers_has
from .table import CASES

pytestmark = pytest.mark.usefixtures("without_gradients")


def test_clip_moe_returns_a_pair_as_before_and_its_experts_are_the_feed_forward_network():
    case = CASES["clip_moe"]
    model, pixels = case.model(), case.pixels()
    before, _ = model(pixels)
    after, router_logits = sp.apply(model)(pixels)
    assert golden.relative_difference(after, before) < 2e-6 and router_logits is None


def test_alpha_clip_looks_at_a_mask_or_at_all_of_the_picture():
    case = CASES["alpha_clip"]
    model, pixels = case.model(), case.pixels()
    alpha = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    masked, whole = model.tokens(pixels, alpha)[:, 1:] @ model.proj, model.tokens(pixels)[:, 1:] @ model.proj
    ours = sp.dense_features(model, torch.cat([pixels, alpha], dim=1), "vanilla").flatten(2).mT
    assert golden.relative_difference(ours, masked) < 1e-5
    ours = sp.dense_features(model, pixels, "vanilla").flatten(2).mT
    assert golden.relative_difference(ours, whole) < 1e-5
    assert golden.relative_difference(masked, whole) > 1e-2
    embedding = model(pixels, alpha)
    assert golden.relative_difference(sp.apply(model)(pixels, alpha), embedding) < 2e-6


@pytest.mark.skipif("siglip_2_naflex" not in CASES, reason="not in this release")
def test_siglip_2_naflex_takes_pictures_of_several_shapes_and_padding():
    case = CASES["siglip_2_naflex"]
    model = case.model()
    pictures = [case.pixels(1, size) for size in ((32, 32), (16, 56), (32, 32), (8, 24))]
    cuts = [cut(picture) for picture in pictures]
    most = max(len(each["pixel_attention_mask"][0]) for each in cuts) + 2

    def padded(name: str) -> torch.Tensor:
        rows = [each[name][0] for each in cuts]
        return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (0, most - len(row))) for row in rows])

    batch = {name: padded(name) for name in ("pixel_values", "pixel_attention_mask")}
    batch["spatial_shapes"] = torch.cat([each["spatial_shapes"] for each in cuts])
    before = model.vision_model(**batch, output_hidden_states=True)
    after = sp.apply(model, "vanilla", keep_cls=False).vision_model(**batch, output_hidden_states=True)
    assert golden.relative_difference(after.pooler_output, before.pooler_output) < 1e-5
    assert len(after.hidden_states) == len(before.hidden_states)
    kept = batch["pixel_attention_mask"].bool()
    for ours, theirs in zip(after.hidden_states[:-1], before.hidden_states[:-1], strict=True):
        assert golden.relative_difference(ours[kept], theirs[kept]) < 1e-5
    assert golden.relative_difference(after.last_hidden_state[kept], before.last_hidden_state[kept]) < 1e-5
    assert not after.last_hidden_state[~kept].any()
    sp.apply(model)  # each picture alone gives what it gives among others
    dense = model.vision_model(**batch).last_hidden_state
    for row, picture in enumerate(pictures):
        alone = model.vision_model(**cut(picture)).last_hidden_state[0]
        assert golden.relative_difference(dense[row, : len(alone)], alone) < 1e-5


# Sizes that the patch does not divide ---------------------------------------------------------------------------------


def clip_of_36_pixels():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**{**TINY_VISION, "image_size": 36}))


def siglip_of_36_pixels():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**{**TINY_VISION, "image_size": 36}))


def embedding_of(model, pixels):
    output = model(pixels)
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@pytest.mark.parametrize(
    "make",
    [clip_of_36_pixels, siglip_of_36_pixels, timm_vit(img_size=36), open_clip_model(image_size=36)],
    ids=["clip", "siglip", "timm", "open_clip"],
)
def test_a_native_size_that_the_patch_does_not_divide_works_as_before(make):
    """SigLIP so400m-patch14-384: 384 = 27 · 14 + 6. The model itself leaves the rest out."""
    model = randomise(make()).eval()
    model = getattr(model, "visual", model)
    pixels = torch.randn(2, 3, 36, 36, generator=torch.Generator().manual_seed(1))
    before = embedding_of(model, pixels)
    sp.apply(model)
    assert golden.relative_difference(embedding_of(model, pixels), before) < 2e-6
    assert sp.dense_features(model, pixels).shape[2:] == (4, 4)
    with pytest.raises(ValueError, match="36 x 38 pixels cannot be cut into patches of 8 x 8"):
        sp.dense_features(model, torch.zeros(1, 3, 36, 38))


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_a_classifier_over_the_mean_of_the_patches_is_refused_with_keep_cls(family: str):
    import transformers

    config = getattr(transformers, f"{family}Config")(vision_config=TINY_VISION)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    before = model(pixels).logits
    message = f"{family}ForImageClassification classifies by the mean of its.*keep_cls=False.*model.vision_model"
    for wrapped in (model, torch.nn.DataParallel(model)):
        with pytest.raises(UnsupportedModelError, match=message):
            sp.apply(wrapped)
    assert torch.equal(model(pixels).logits, before)
    sp.apply(model, keep_cls=False)
    assert not torch.equal(model(pixels).logits, before)
    assert torch.equal(sp.restore(model)(pixels).logits, before)
    assert sp.apply(model.vision_model) is model.vision_model


def test_mlcd_whose_positions_are_rotary_is_named():
    import transformers

    if not transformers_has("MLCDVisionModel"):
        pytest.skip("not in this release")
    model = transformers.MLCDVisionModel(transformers.MLCDVisionConfig(**TINY_VISION))
    with pytest.raises(UnsupportedModelError, match="MLCDVisionModel"):
        find_tower(model)
