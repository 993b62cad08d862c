"""Towers whose patches are made by a convolutional network: MobileCLIP-B, ViTamin."""

import golden
import pytest
import timm
import torch

import sclip_plugin as sp

KNOWN = timm.list_models(["vit_base_mci*", "vitamin*"])
STEMS = [name for name in ("vit_base_mci_224", "vitamin_small_224") if name in KNOWN]


@pytest.fixture(scope="module", params=STEMS)
def model(request):
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=24).eval()


@torch.no_grad()
def test_vanilla_gives_the_models_own_tokens(model):
    pixels = torch.randn(1, 3, 224, 224)
    own = model.forward_features(pixels)
    given = sp.apply(model, "vanilla").forward_features(pixels)
    sp.restore(model)
    golden.assert_equal(given, own)
    assert torch.equal(model.forward_features(pixels), own)


@torch.no_grad()
def test_the_embedding_stays_and_functional_is_in_place(model):
    pixels = torch.randn(1, 3, 224, 224)
    own, features = model(pixels), sp.dense_features(model, pixels, "csa")
    with sp.applied(model, "csa"):
        golden.assert_equal(model(pixels), own)
    assert features.shape == (1, 24, 14, 14) and torch.isfinite(features).all()


@torch.no_grad()
def test_other_sizes(model):
    assert sp.dense_features(model, torch.randn(1, 3, 160, 256), "naclip").shape == (1, 24, 10, 16)
