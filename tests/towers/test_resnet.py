"""ResNet towers: the attention pool as the one block, against CLIP Surgery's published code and MaskCLIP's formula."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import sclip_plugin as sp
from sclip_plugin.dense import dense_tokens
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.methods import make_method
from sclip_plugin.towers import find_tower

from .table import CASES, METHODS

pytestmark = pytest.mark.usefixtures("without_gradients")

POOLS = [case for case in CASES.values() if case.one_block]


def published_resnet(layout: str) -> torch.nn.Module:
    """The golden ResNet, stored in half precision."""
    if layout == "open_clip":
        from open_clip.modified_resnet import ModifiedResNet

        model = ModifiedResNet([1, 1, 1, 1], 64, heads=4, image_size=96, width=8)
    else:
        from clip.model import ModifiedResNet

        model = ModifiedResNet([1, 1, 1, 1], 64, heads=4, input_resolution=96, width=8)
    state = load_file(golden.FOLDER / "tiny_resnet_openai.safetensors")
    report = model.load_state_dict({key.removeprefix("visual."): x.float() for key, x in state.items()}, strict=False)
    assert not report.unexpected_keys and all(key.endswith("num_batches_tracked") for key in report.missing_keys)
    return model.eval()


@pytest.mark.parametrize("layout", ["open_clip", "openai"])
@pytest.mark.parametrize(
    ("method", "array"), [("surgery", "surgery_resnet"), ("vv", "surgery_resnet"), ("vanilla", "resnet_untouched")]
)
def test_tokens_are_those_of_clip_surgery(layout: str, method: str, array: str):
    pixels = golden.arrays("inputs")["pixels.144x144"][..., :96, :96]
    tower = find_tower(published_resnet(layout))
    tokens, _ = dense_tokens(tower, pixels, make_method(method), keep_cls=False)
    golden.assert_equal(tower.project(tokens), golden.arrays("CLIP-Surgery-ResNet")[f"{array}.96x96.tokens"])


def test_maskclip_is_two_convolutions_over_the_map_without_positions():
    model = published_resnet("open_clip")
    pixels = golden.arrays("inputs")["pixels.144x112"][..., :96]
    seen: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda module, given, output: seen.append(output))
    ours = sp.dense_features(model, pixels[..., :128, :96], "maskclip")
    x, pool = seen[0], model.attnpool
    for linear in (pool.v_proj, pool.c_proj):
        x = F.conv2d(x, linear.weight[..., None, None], linear.bias)
    golden.assert_equal(ours, x)


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("name", ["resclip", "scclip"])
def test_a_method_that_looks_at_earlier_blocks_is_refused_by_name(case, name: str):
    model = case.model()
    message = f"'{name}' looks at blocks before the last one, and .*Net has one alone"
    with pytest.raises(UnsupportedModelError, match=message):
        sp.dense_features(model, case.pixels(), METHODS[name])
    with pytest.raises(UnsupportedModelError, match=message):
        sp.apply(model, METHODS[name])
    assert not any("_sclip_patch" in module.__dict__ for module in model.modules())


def test_timm_projections_in_one_are_read():
    """resnet*_clip has them apart; timm's pool can have them joined."""
    from timm.layers import AttentionPool2d

    case = CASES["resnet_timm"]
    model, pixels = case.model(), case.pixels()
    apart, expected = model.head, sp.dense_features(model, pixels)
    model.head = AttentionPool2d(128, feat_size=3, out_features=24)
    state = {key: value for key, value in apart.state_dict().items() if key[1] != "."}
    for kind in ("weight", "bias"):
        state[f"qkv.{kind}"] = torch.cat([getattr(getattr(apart, name), kind) for name in "qkv"])
    model.head.load_state_dict(state)
    golden.assert_equal(sp.dense_features(model, pixels), expected)
