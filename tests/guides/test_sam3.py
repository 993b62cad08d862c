"""SAM 3's vision encoder as a guide."""

import pytest
import sam3_golden
import torch

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.guides import as_guide, find_guide


@torch.no_grad()
def test_it_sees_what_the_vision_encoder_gives_at_its_patches():
    model, pixels = sam3_golden.tiny(), torch.rand(2, 3, 112, 112)
    guide = find_guide(model)
    seen = guide.look(pixels)
    levels = model.get_vision_features(pixels * 2 - 1).fpn_hidden_states
    assert seen.grid == guide.grid((112, 112)) == (8, 8)
    assert (seen.tokens.mT.unflatten(2, (8, 8)) - levels[2]).abs().max() < 1e-6
    assert guide.look(torch.rand(1, 3, 40, 90)).grid == (8, 8)


def test_proxyclip_looks_through_it_and_trident_cannot(tmp_path):
    scene, demo = sp.draw_scene(0), sp.Segmenter.from_pretrained("demo", device="cpu")
    in_hand = demo(scene.picture, list(scene.labels), method="proxyclip", guide=sam3_golden.tiny(3))
    named = demo(scene.picture, list(scene.labels), method=f"proxyclip:{sam3_golden.saved(tmp_path)}")
    assert (in_hand.label_map == named.label_map).all() and len(set(in_hand.label_map.flat)) > 1
    with pytest.raises(UnsupportedModelError, match="SAM: transformers' SamModel"):
        demo(scene.picture, ["cat"], method="trident", guide=sam3_golden.tiny(), sam=sam3_golden.tiny())


def test_a_model_in_hand_is_used_as_it_is():
    model = sam3_golden.tiny()
    before = next(model.parameters()).dtype
    assert as_guide(model, device=torch.device("cpu"), dtype=torch.bfloat16).module is model
    assert next(model.parameters()).dtype == before
