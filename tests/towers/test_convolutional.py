"""Convolutional towers: the last map through the tower's own head, place by place, and no method but `vanilla`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import golden
import pytest
import torch
from torch import nn

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.methods import make_method
from sclip_plugin.towers import find_tower

from .case import randomise
from .models import METHODS, encode_image, timm_trunk, with_timm_visual

pytestmark = pytest.mark.usefixtures("without_gradients")


def convnext(**options) -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), **{"num_classes": 24, **options})


def fastvit(**options) -> nn.Module:
    """MobileCLIP-S's kind: five stages, attention in the last two, 64 pixels between places."""
    from timm.models.fastvit import FastVit

    mixers = ("repmixer", "repmixer", "repmixer", "attention", "attention")
    return FastVit(
        layers=(1, 1, 1, 1, 1), embed_dims=(8, 16, 32, 64, 128), token_mixers=mixers, mlp_ratios=(2,) * 5,
        downsamples=(False, True, True, True, True), se_downsamples=(False,) * 5, pos_embs=(None,) * 5,
        **{"num_classes": 24, **options},
    )  # fmt: skip


def average_pooled_resnet() -> nn.Module:
    from timm.models.byobnet import ByoBlockCfg, ByobNet, model_cfgs

    stages = tuple(ByoBlockCfg("bottle", d=1, c=c, s=s, br=0.25) for c, s in ((32, 1), (64, 2), (96, 2), (128, 2)))
    cfg = copy.deepcopy(model_cfgs["resnet50_clip"])
    cfg.blocks, cfg.stem_chs, cfg.head_type = stages, (8, 8, 16), "classifier"
    return ByobNet(cfg, num_classes=24)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convnext": convnext,
    "convnext_mlp_head": partial(convnext, head_hidden_size=20),
    "fastvit": fastvit,
    "resnet_gap": average_pooled_resnet,
    "open_clip_convnext": with_timm_visual(partial(convnext, num_classes=0)),
    "open_clip_fastvit": with_timm_visual(partial(fastvit, num_classes=0)),
}


@pytest.fixture(params=MODELS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return randomise(MODELS[request.param]()).eval()


def pixels_of(model: nn.Module, rows: int = 2, columns: int = 3) -> torch.Tensor:
    side = find_tower(model).patch_size[0]
    return torch.randn(2, 3, rows * side, columns * side, generator=torch.Generator().manual_seed(1))


def test_each_place_goes_through_the_models_own_head(model: nn.Module):
    pixels, trunk = pixels_of(model), timm_trunk(model)
    places = trunk.forward_features(pixels)
    above = model.visual.head if hasattr(model, "visual") else nn.Identity()
    ours = sp.dense_features(model, pixels, "vanilla")
    assert ours.shape == (2, 24, 2, 3)
    for row, column in ((0, 0), (1, 2)):
        alone = places[:, :, row : row + 1, column : column + 1]
        golden.assert_equal(ours[:, :, row, column], above(trunk.forward_head(alone)))
    if not hasattr(trunk.head, "norm"):  # a linear head
        golden.assert_equal(ours.mean(dim=(2, 3)), encode_image(model, pixels))


def test_in_place_nothing_changes_and_nothing_is_left_behind(model: nn.Module):
    pixels = pixels_of(model)
    before = encode_image(model, pixels), timm_trunk(model).forward_features(pixels)
    patched = pickle.loads(pickle.dumps(copy.deepcopy(sp.apply(model, "vanilla"))))
    for each in (patched, model, sp.restore(model)):
        assert torch.equal(encode_image(each, pixels), before[0])
        assert torch.equal(timm_trunk(each).forward_features(pixels), before[1])
    assert not any("_sclip_patch" in module.__dict__ for module in model.modules())


def test_every_other_method_is_refused_in_a_sentence(model: nn.Module):
    pixels = pixels_of(model)
    others = [
        *(method for name, method in METHODS.items() if name != "vanilla"),
        make_method("vanilla", {"ffn": False}),
    ]
    for method in others:
        message = f"is a convolutional tower.* '{method.name}' to replace. method='vanilla'"
        with pytest.raises(UnsupportedModelError, match=message):
            sp.dense_features(model, pixels, method)
        with pytest.raises(UnsupportedModelError, match=message):
            sp.apply(model, method)


def test_a_size_between_two_places_is_refused(model: nn.Module):
    side = find_tower(model).patch_size[0]
    with pytest.raises(ValueError, match=f"cannot be cut into patches of {side} x {side}"):
        sp.dense_features(model, torch.zeros(1, 3, side, side + 8), "vanilla")


def test_half_precision(model: nn.Module):
    exact = sp.dense_features(model, pixels_of(model), "vanilla")
    ours = sp.dense_features(model.to(torch.bfloat16), pixels_of(model), "vanilla")
    assert ours.dtype == torch.bfloat16
    assert golden.relative_difference(ours.float(), exact) < 0.06
