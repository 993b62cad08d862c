"""What transformers' users rely on beside the tokens: checkpoints, hidden states, tuples, logits, positions."""

from __future__ import annotations

import json

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.towers import find_tower

from .table import CASES, Case

pytestmark = pytest.mark.usefixtures("without_gradients")

OURS = [
    case
    for case in CASES.values()
    if hasattr(find_tower(case.shared_model()).trunk, "config")
    and case.name != "vit_mae"  # which shuffles its patches
    and "naflex" not in case.name  # whose forward takes cut patches: test_families.py
]
every_case = pytest.mark.parametrize("case", OURS, ids=str)
whole_models = pytest.mark.parametrize("case", [c for c in OURS if hasattr(c.shared_model(), "text_model")], ids=str)


def vision(case: Case, model, pixels, **options):
    """The output of the vision tower's own forward."""
    return find_tower(model).trunk(pixels, **options)


@every_case
def test_save_pretrained_writes_an_ordinary_checkpoint(case: Case, tmp_path):
    model, pixels = case.model(), case.pixels()
    if not hasattr(model, "save_pretrained"):
        pytest.skip("a bare trunk, which transformers 4 does not save")
    before = case.outputs(model, pixels)
    sp.apply(model).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]
    assert not list(tmp_path.glob("*.py"))
    reloaded = type(case.model()).from_pretrained(tmp_path).requires_grad_(False)  # as ours: torch's kernels differ
    for ours, theirs in zip(case.outputs(reloaded, pixels), before, strict=True):
        assert torch.equal(ours, theirs)


@every_case
def test_hidden_states_end_with_the_dense_tokens(case: Case):
    model, pixels = case.model(), case.pixels()
    ordinary = vision(case, model, pixels, output_hidden_states=True)
    dense = vision(case, sp.apply(model), pixels, output_hidden_states=True)
    assert len(dense.hidden_states) == len(ordinary.hidden_states) == len(find_tower(model).blocks) + 1
    for ours, theirs in zip(dense.hidden_states[:-1], ordinary.hidden_states[:-1], strict=True):
        assert golden.relative_difference(ours, theirs) < 1e-5
    tower = find_tower(model)
    assert torch.equal(tower.returned(dense.hidden_states[-1]), dense.last_hidden_state)
    assert vision(case, model, pixels).hidden_states is None


@every_case
def test_return_dict_false_gives_the_same_parts(case: Case):
    model, pixels = sp.apply(case.model()), case.pixels()
    outputs = vision(case, model, pixels)
    parts = vision(case, model, pixels, return_dict=False)
    assert isinstance(parts, tuple) and len(parts) == 2
    assert torch.equal(parts[0], outputs.last_hidden_state) and torch.equal(parts[1], outputs.pooler_output)
    assert len(vision(case, model, pixels, return_dict=False, output_hidden_states=True)) == 3


@every_case
def test_the_config_can_ask_for_hidden_states(case: Case):
    model = sp.apply(case.model())
    find_tower(model).trunk.config.output_hidden_states = True
    assert vision(case, model, case.pixels()).hidden_states is not None


@every_case
def test_attentions_are_refused_with_a_remedy(case: Case):
    with pytest.raises(ValueError, match=r"output_attentions=True.*sclip_plugin.restore"):
        vision(case, sp.apply(case.model()), case.pixels(), output_attentions=True)


@whole_models
def test_logits_of_pictures_and_texts_are_kept(case: Case):
    model, pixels = case.model(), case.pixels()
    ids = torch.tensor([[1, 7, 8, 9, 2], [1, 5, 4, 6, 2]])
    if case.golden:
        ids[:, -1] = model.config.text_config.eos_token_id
    inputs = dict(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
    before = model(**inputs)
    after = sp.apply(model)(**inputs)
    assert golden.relative_difference(after.logits_per_image, before.logits_per_image) < 2e-6
    assert torch.equal(after.text_embeds, before.text_embeds)
    dense, ordinary = (output.vision_model_output.last_hidden_state for output in (after, before))
    assert golden.relative_difference(dense, ordinary) > 1e-3


OTHERWISE = ("dinov2_registers", "dinov3", "aimv2", "aimv2_native", "tipsv2")  # antialiased, rotary, fixed, sines


@pytest.mark.parametrize("case", [c for c in OURS if c.name not in OTHERWISE], ids=str)
def test_positions_resized_by_size_are_those_of_transformers(case: Case):
    pixels = case.pixels(size=case.other_size)
    embedding, patches = case.outputs(case.shared_model(), pixels)
    with sp.applied(case.shared_model(), "vanilla", position_resize="size") as model:
        ours = case.outputs(model, pixels)
    assert golden.relative_difference(ours[0], embedding) < 1e-5
    assert golden.relative_difference(ours[1], patches) < 1e-5
    # Only at another grid do the two ways differ.
    by_factor = sp.dense_features(case.shared_model(), pixels, "vanilla")
    by_size = sp.dense_features(case.shared_model(), pixels, "vanilla", position_resize="size")
    assert golden.relative_difference(by_factor, by_size) > 1e-3
    native = case.pixels()
    assert torch.equal(
        sp.dense_features(case.shared_model(), native, "vanilla"),
        sp.dense_features(case.shared_model(), native, "vanilla", position_resize="size"),
    )


def test_dinov2_with_registers_resizes_positions_with_antialiasing():
    case = CASES["dinov2_registers"]
    pixels = case.pixels(size=(16, 24))
    ours = sp.dense_features(case.shared_model(), pixels, "vanilla", position_resize="size_antialias")
    theirs = case.patches(case.shared_model(), pixels)
    assert golden.relative_difference(ours.flatten(2).mT, theirs) < 1e-5


def test_positions_resized_by_factor_are_what_the_published_code_asks_of_torch():
    from sclip_plugin.towers.base import resize_positions

    positions = torch.randn(1 + 4 * 4, 6)
    ours = resize_positions(positions, (4, 4), (3, 7), "scale_factor")
    square = positions[1:].T.reshape(1, 6, 4, 4)
    theirs = F.interpolate(square, scale_factor=(3.1 / 4, 7.1 / 4), mode="bicubic", recompute_scale_factor=False)
    assert torch.equal(ours[0], positions[0])
    assert torch.equal(ours[1:], theirs[0].flatten(1).T)
    assert resize_positions(positions, (4, 4), (4, 4), "scale_factor") is positions
    with pytest.raises(ValueError, match="position_resize='nearest'; expected 'scale_factor', 'size', "):
        resize_positions(positions, (4, 4), (3, 7), "nearest")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_attention_implementation(attention: str):
    case = CASES["clip"]
    model, pixels = case.model(), case.pixels()
    expected = sp.dense_features(model, pixels, "gem")
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = attention
    assert golden.relative_difference(sp.dense_features(model, pixels, "gem"), expected) < 1e-5
