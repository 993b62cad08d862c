"""Which tower is found for a model: by structure, by decorator, by entry point; and what is said where none fits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.towers import find_tower

from .families import has_naflexvit, naflexvit
from .models import TINY_TEXT, TINY_VISION, open_clip_knows, open_clip_model, timm_vit, transformers_has
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


def open_clip_text():
    return CASES["open_clip_custom_text"].model().text


def of_timm(name: str, **options):
    """Its weights are drawn only where a test computes with them."""

    def make():
        import timm

        if not timm.list_models(name):
            pytest.skip("not in this release")
        try:
            with torch.device("meta"):
                return timm.create_model(name, **options)
        except (NotImplementedError, RuntimeError):  # older releases compute with tensors as they build
            return timm.create_model(name, **options)

    make.__name__ = name
    return make


def of_transformers(name: str, **options):
    def make():
        import transformers

        if not transformers_has(name + "Model"):
            pytest.skip("not in this release")
        with torch.device("meta"):
            return getattr(transformers, name + "Model")(getattr(transformers, name + "Config")(**options))

    make.__name__ = name
    return make


def timm_gated():
    if not has_naflexvit():
        pytest.skip("not in this release")
    try:
        return naflexvit(attn_gated=True)()
    except TypeError:
        pytest.skip("not in this release")


def torchvision_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 1, 2, 16, 16)


def torchvision_swin():
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4])


def text_tower():
    return CASES["clip"].model().text_model


def linear():
    return nn.Linear(2, 2)


def nothing():
    return None


COCA, COSINE = "its tokens leave through a pool with learned queries", "its attention compares by cosines"
RELATIVE, DIFFERENCE = "its attention adds relative positions", "its attention is the difference of two"
ROTARY, TEXT = "its rotary positions are of a kind that no tower here turns", "it reads the tokens of a text"
PLAIN, UNKNOWN = (
    "it is a network without attention, and without a CLIP's head",
    "its structure is none that a registered",
)
UNSUPPORTED = {
    open_clip_coca: ("CLIP (its image tower is VisionTransformer)", COCA),
    open_clip_scaled_cosine: ("CLIP (its image tower is VisionTransformer)", COSINE),
    of_timm("vit_relpos_small_patch16_224", depth=1): ("VisionTransformerRelPos", RELATIVE),
    of_timm("beit_base_patch16_224", depth=1): ("Beit", RELATIVE),
    of_timm("swin_tiny_patch4_window7_224"): ("SwinTransformer", RELATIVE),
    of_timm("swinv2_tiny_window8_256"): ("SwinTransformerV2", RELATIVE),
    torchvision_swin: ("SwinTransformer", RELATIVE),
    of_transformers("Sam"): ("SamModel", RELATIVE),
    timm_gated: ("NaFlexVit", "its attention has a gate"),
    of_timm("vit_dlittle_patch16_reg1_gap_256", depth=1): ("VisionTransformer", DIFFERENCE),
    of_timm("vit_small_patch16_dinov3", depth=1): ("Eva", ROTARY),
    of_timm("vit_base_patch16_rope_mixed_ape_224", depth=1): ("Eva", ROTARY),
    of_transformers("MLCDVision", **TINY_VISION): ("MLCDVisionModel", ROTARY),
    of_timm("deit_tiny_distilled_patch16_224", depth=1): ("VisionTransformerDistilled", "it has a distillation token"),
    text_tower: ("CLIPText", TEXT),
    open_clip_text: ("TextTransformer", TEXT),
    of_transformers("Bert", **{**TINY_TEXT, "hidden_size": 16}): ("BertModel", TEXT),
    of_timm("resnet10t"): ("ResNet", PLAIN),
    of_timm("mobilenetv3_small_050"): ("MobileNetV3", PLAIN),
    of_transformers("Align"): ("AlignModel (its image tower is AlignVisionModel)", PLAIN),
    of_timm("vit_base_patch16_18x2_224", depth=1): ("VisionTransformer", UNKNOWN),
    of_timm("vit_base_patch16_rpn_224", depth=1): ("VisionTransformer", UNKNOWN),
    torchvision_vit: ("VisionTransformer", UNKNOWN),
    of_transformers("OwlViT", text_config=TINY_TEXT, vision_config=TINY_VISION): ("OwlViTModel", UNKNOWN),
    of_transformers("Blip", text_config=TINY_TEXT, vision_config=TINY_VISION): ("BlipModel", UNKNOWN),
    of_transformers("Vilt", **TINY_VISION): ("ViltModel", UNKNOWN),
    linear: ("Linear", UNKNOWN),
    nothing: ("NoneType", "it is no torch.nn.Module"),
}


@pytest.mark.parametrize("make", UNSUPPORTED, ids=lambda make: make.__name__)
def test_an_unsupported_model_is_named_and_what_stands_against_it(make):
    name, reason = UNSUPPORTED[make]
    with pytest.raises(UnsupportedModelError) as caught:
        find_tower(make())
    assert str(caught.value).startswith(name)
    assert f"cannot be used: {reason}" in str(caught.value)
    for works in (
        "transformers: CLIPModel",
        "open_clip: CLIP",
        "timm: VisionTransformer",
        "SiglipModel",
        "toys: ToyViT",
    ):
        assert works in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("use", [sp.apply, sp.restore, lambda m: sp.dense_features(m, torch.zeros(1))])
def test_everything_that_takes_a_model_says_so(use):
    with pytest.raises(UnsupportedModelError, match=r"CLIPText.* cannot be used: it reads the tokens of a text"):
        use(text_tower())


# Models that hold a CLIP ----------------------------------------------------------------------------------------------

LANGUAGE = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    head_dim=16, vocab_size=99,
)  # fmt: skip


def vision_language(family: str, vision: str, language: str):
    """A tiny model that talks about pictures, and the attribute that holds its image tower."""
    import transformers

    if not transformers_has(family + "Model"):
        pytest.skip("not in this release")
    config = getattr(transformers, family + "Config")(
        vision_config=getattr(transformers, vision + "Config")(**TINY_VISION),
        text_config=getattr(transformers, language + "Config")(**LANGUAGE),
        image_token_index=98,
    )
    return getattr(transformers, family + "ForConditionalGeneration")(config).eval()


def clipseg_for_segmentation():
    import transformers

    vision = {**TINY_VISION, "num_hidden_layers": 6}
    config = transformers.CLIPSegConfig(text_config=TINY_TEXT, vision_config=vision, extract_layers=[1, 2, 3])
    return transformers.CLIPSegForImageSegmentation(config).eval()


HOLDERS = {
    "llava": lambda: vision_language("Llava", "CLIPVision", "Llama"),
    "llava_onevision": lambda: vision_language("LlavaOnevision", "SiglipVision", "Qwen2"),
    "paligemma": lambda: vision_language("PaliGemma", "SiglipVision", "Gemma"),
    "clipseg": clipseg_for_segmentation,
}


@pytest.mark.parametrize("name", HOLDERS)
@torch.no_grad()
def test_a_model_that_holds_a_clip_says_which_part_to_pass(name: str):
    model = HOLDERS[name]()
    with pytest.raises(UnsupportedModelError, match="it is more than a CLIP") as caught:
        find_tower(model)
    path = re.search(r"its part model\.([\w.]+) is an image tower that works", str(caught.value))[1]
    part = model.get_submodule(path)
    assert path.split(".")[-1] == ("clip" if name == "clipseg" else "vision_tower")
    features = sp.dense_features(part, torch.randn(1, 3, 32, 48))
    assert features.shape[2:] == (4, 6) and features.isfinite().all()


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


def test_every_row_of_the_table_of_models_names_a_case():
    """docs/models.md: the third column of a table of models holds cases, or the file that tests what is in no case."""
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parents[1]).rglob("*.py"))
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", page, re.M)
    rows = [row for row in rows if row[2].strip() not in ("case", "---")]
    assert len(rows) > 30
    for model, _, shown, _ in rows:
        names = re.findall(r"`([^`]+)`", shown)
        assert names, model
        for name in names:
            known = name in CASES or name in tests
            assert (
                known or (Path(__file__).parent / name).exists() or (Path(__file__).parents[1] / "text" / name).exists()
            )
