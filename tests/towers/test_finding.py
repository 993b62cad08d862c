"""Which tower is found for a model: by structure, by decorator, by entry point; and what is said where none fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.towers import find_tower

from .models import TINY_TEXT, TINY_VISION, open_clip_knows, open_clip_model, timm_vit
from .table import CASES

TOWER_OF = {
    "clip": "transformers", "clip_trunk": "transformers", "clip_with_projection": "transformers",
    "chinese_clip": "transformers", "altclip": "transformers", "metaclip_2": "transformers", "clipseg": "transformers",
    "siglip": "siglip", "siglip_vision": "siglip",
    "timm": "timm", "timm_siglip": "timm", "open_clip_timm": "timm",
    "timm_eva02_clip": "eva", "timm_perception_encoder": "eva", "open_clip_timm_eva02": "eva",
    "open_clip": "open_clip", "open_clip_custom_text": "open_clip", "open_clip_visual": "open_clip",
    "openai": "open_clip",
    "siglip_2_naflex": "naflex", "aimv2": "aimv2", "tipsv2": "vit", "dual_encoder_vit": "vit",
    "dual_encoder_siglip": "siglip", "toy": "toy",
    "resnet_open_clip": "resnet", "resnet_openai": "resnet", "resnet_timm": "resnet",
}  # fmt: skip


@pytest.mark.parametrize(("case", "name"), [(c, n) for c, n in TOWER_OF.items() if c in CASES])
def test_a_model_is_recognised_by_structure(case: str, name: str):
    assert find_tower(CASES[case].shared_model()).name == name


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_only_one_tower_claims_a_model(case):
    from sclip_plugin.towers import TOWERS

    model = case.shared_model()
    assert len([name for name in sp.list_towers() if TOWERS[name].find(model) is not None]) == 1


def open_clip_coca():
    return open_clip_model(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=4)()


def open_clip_scaled_cosine():
    if not open_clip_knows("scaled_cosine_attn"):
        pytest.skip("not in this release")
    return open_clip_model(scaled_cosine_attn=True)()


def timm_resnet():
    import timm

    return timm.create_model("resnet10t", pretrained=False)


def timm_relative_positions():
    import timm

    return timm.create_model("vit_relpos_small_patch16_224", pretrained=False, depth=1)


def timm_beit():
    import timm

    return timm.create_model("beit_base_patch16_224", pretrained=False, depth=1)


def torchvision_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 1, 2, 16, 16)


def owlvit():
    import transformers

    return transformers.OwlViTModel(transformers.OwlViTConfig(text_config=TINY_TEXT, vision_config=TINY_VISION))


def text_tower():
    return CASES["clip"].model().text_model


UNSUPPORTED = {
    open_clip_coca: r"CLIP \(its image tower is VisionTransformer\)",
    open_clip_scaled_cosine: r"CLIP \(its image tower is VisionTransformer\)",
    timm_resnet: "ResNet",
    timm_relative_positions: "VisionTransformerRelPos",
    timm_beit: "Beit",
    torchvision_vit: "VisionTransformer",
    owlvit: "OwlViTModel",
    text_tower: "CLIPText",
    lambda: nn.Linear(2, 2): "Linear",
    lambda: None: "NoneType",
}


@pytest.mark.parametrize("make", UNSUPPORTED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("use", [find_tower, sp.apply, sp.restore, lambda m: sp.dense_features(m, torch.zeros(1))])
def test_an_unsupported_model_is_named_and_what_works_is_listed(make, use):
    model = make()
    with pytest.raises(UnsupportedModelError, match=UNSUPPORTED[make]) as caught:
        use(model)
    for works in (
        "transformers: CLIPModel",
        "open_clip: CLIP",
        "timm: VisionTransformer",
        "SiglipModel",
        "toys: ToyViT",
    ):
        assert works in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_a_model_with_a_plain_timm_vit_inside_is_found_at_any_wrapping():
    model = timm_vit()().eval()
    for wrapped in (model, nn.DataParallel(model), torch.compile(model), nn.DataParallel(torch.compile(model))):
        assert find_tower(wrapped).trunk is model


def test_a_trunk_that_is_compiled_inside_its_model_is_patched_itself():
    case = CASES["clip"]
    model, pixels = case.model(), case.pixels()
    expected = sp.dense_features(model, pixels)
    trunk = model.vision_model
    model.vision_model = torch.compile(trunk, backend="eager")
    assert find_tower(sp.apply(model)).trunk is trunk
    assert "_sclip_patch" in trunk.__dict__
    with torch.no_grad():
        ours = case.to_joint(sp.restore(model), sp.apply(model).vision_model(pixels).last_hidden_state[:, 1:])
    assert ((ours - expected.flatten(2).mT).abs().max() / expected.abs().max()).item() < 1e-5


def test_an_installed_package_adds_a_tower_by_entry_point(tmp_path: Path):
    (tmp_path / "toy_towers.py").write_text((Path(__file__).parent / "toy.py").read_text())
    info = tmp_path / "toy_towers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-towers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sclip_plugin.towers]\ntoy = toy_towers:ToyTower\n")
    script = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import torch, sclip_plugin as sp
assert "toy" in sp.list_towers()
from toy_towers import ToyViT
with torch.no_grad():
    model, pixels = ToyViT().eval(), torch.randn(2, 3, 32, 32)
    embedding = model(pixels)
    features = sp.dense_features(model, pixels)
    sp.apply_csa(model)
    assert torch.allclose(model.tokens(pixels).mT.unflatten(2, (4, 4)), features)
    assert torch.equal(model(pixels), embedding)
    sp.restore(model)
    assert type(model) is ToyViT
    print("the toy works")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "the toy works\n", done.stderr
