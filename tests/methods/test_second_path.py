"""The second path beside the last blocks: GEM, CLIP Surgery and ExCEL written out, ITACLIP's mean of maps."""

from __future__ import annotations

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.methods import make_method
from sclip_plugin.methods.second_path import second_path
from sclip_plugin.towers import find_tower

from .models import golden_model, pixels

pytestmark = pytest.mark.usefixtures("without_gradients")


def softmaxed(block, z):
    return (block.scale * z @ z.mT).softmax(dim=-1)


def vv(block):
    return softmaxed(block, block.v) @ block.v


def shared_by_heads(block):
    total = sum(softmaxed(block, z) for z in (block.q, block.k, block.v)).sum(dim=1, keepdim=True) / 3
    assert torch.allclose(total.sum(dim=-1), torch.tensor(float(block.num_heads)))
    return total @ block.v


@pytest.mark.parametrize("count", [1, 3, 6, 99])
@pytest.mark.parametrize(("name", "attend"), [("surgery", vv), ("excel", shared_by_heads)])
def test_the_path_by_its_formula(name, attend, count):
    """z starts as what enters the first of the blocks; CLS is the untouched path's."""
    tower, picture = find_tower(golden_model()), pixels(112, 80, batch=2)
    states: list[torch.Tensor] = []
    method = make_method(name, {"blocks": count})
    block, context = method.reach_last_block(tower, picture, states)
    z = states[-min(count, 12)]
    for module, tokens in list(zip(tower.blocks, states, strict=True))[-count:]:
        at = tower.block_input(module, tokens)
        z = z + at.out(attend(at))
    expected = torch.cat([tower.run_block(tower.blocks[-1], states[-1])[:, :1], z[:, 1:]], dim=1)
    golden.assert_equal(method(block, context), expected)


def test_the_path_gives_every_layer():
    tower = find_tower(golden_model())
    method = make_method("surgery", {"blocks": 3})
    block, context = method.reach_last_block(tower, pixels(112, 112))
    blocks = [context.taps[9], context.taps[10], block]
    layers = second_path(blocks, vv)
    assert len(layers) == 3
    golden.assert_equal(layers[0], blocks[0].tokens + blocks[0].out(vv(blocks[0])))
    golden.assert_equal(layers[2] - layers[1], block.out(vv(block)), 1e-4)


@pytest.mark.parametrize("framework", golden.FRAMEWORKS)
def test_between_attention_and_ffn(framework):
    """`after_attention` and `norm2` are the two halves of the block's own forward."""
    tower = find_tower(golden.model(framework))
    block, _ = make_method("vanilla").reach_last_block(tower, pixels(112, 112))
    halfway = block.after_attention()
    golden.assert_equal(halfway + block.ffn(halfway), tower.run_block(block.block, block.tokens))
    norm = next(getattr(block.block, name) for name in ("ln_2", "norm2", "layer_norm2") if hasattr(block.block, name))
    assert torch.equal(block.norm2(halfway), norm(halfway))


def test_positions_are_resized_bilinearly():
    picture = pixels(144, 80)
    ours = sp.dense_features(golden_model(), picture, "surgery")
    bicubic = sp.dense_features(golden_model(), picture, "surgery", position_resize="size")
    assert golden.relative_difference(bicubic, ours) > 1e-4


@pytest.mark.parametrize("maps", ["csa", "ordinary"])
def test_itaclip_by_its_formula(maps):
    method = make_method("itaclip", {"maps": maps, "earlier_share": 0.3, "temperature": 1.5})
    tower = find_tower(golden_model())
    block, context = method.reach_last_block(tower, pixels(112, 80))

    def mapped(at):
        pairs = [(at.q, at.q), (at.k, at.k)] if maps == "csa" else [(at.q, at.k)]
        return sum((1.5 * at.scale * a @ b.mT).softmax(dim=-1) for a, b in pairs)

    earlier = sum(mapped(context.taps[index]) for index in (6, 7, 9)) / 3
    attended = (0.7 * mapped(block) + 0.3 * earlier) @ block.v
    golden.assert_equal(method(block, context), block.tokens + block.out(attended))
    alone = make_method("itaclip", {"earlier_blocks": ()})
    plain = sp.dense_features(golden_model(), pixels(112, 80), "csa", ffn=False)
    golden.assert_equal(sp.dense_features(golden_model(), pixels(112, 80), alone), plain)


def test_cliptrase_is_csa_of_three_projections():
    picture = pixels(112, 112)
    three = sp.dense_features(golden_model(), picture, "csa", projections=("q", "k", "v"))
    assert torch.equal(sp.dense_features(golden_model(), picture, "cliptrase"), three)
