"""GEM by its formula, written out with explicit maps."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.methods import make_method
from sclip_plugin.towers import find_tower

from .models import golden_model


def explicit(block, iterations):
    """out(mean of A_v v, A_k v, A_q v) with maps (B, H, T, T)."""
    tau = (block.x.norm(dim=-1).mean(dim=1) * block.scale).view(-1, 1, 1, 1)
    maps = []
    for z in (block.v, block.k, block.q):
        for _ in range(iterations):
            z = F.normalize(z, dim=-1)
            z = (tau * z @ z.mT).softmax(dim=-1) @ z
        z = F.normalize(z, dim=-1)
        maps.append((tau * z @ z.mT).softmax(dim=-1))
    return block.out(torch.stack(maps).mean(dim=0) @ block.v)


@pytest.mark.parametrize(("depth", "iterations"), [(7, 1), (2, 1), (4, 3), (7, 0), (99, 1)])
def test_depth_and_iterations(depth, iterations):
    method = make_method("gem", {"depth": depth, "iterations": iterations})
    tower = find_tower(golden_model())
    block, context = method.reach_last_block(tower, golden.arrays("inputs")["pixels.112x112"])
    blocks = [context.taps[index] for index in method.taps(12)] + [block]
    assert len(blocks) == min(depth - 1, 12)
    expected = blocks[0].tokens + sum(explicit(b, iterations) for b in blocks)
    assert golden.relative_difference(method(block, context), expected) < 1e-5


def test_positions_are_resized_as_gem_does():
    picture = golden.arrays("inputs")["pixels.112x160"]
    default = sp.dense_features(golden_model(), picture, "gem")
    assert torch.equal(default, sp.dense_features(golden_model(), picture, "gem", position_resize="size_antialias"))
    other = sp.dense_features(golden_model(), picture, "gem", position_resize="scale_factor")
    assert golden.relative_difference(other, default) > 1e-3


@pytest.mark.parametrize("options", [{"depth": 1}, {"iterations": -1}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="2 or more|0 or more"):
        make_method("gem", options)
