"""CLIPtrase's clusters: R by its definition, and what the majority of a cluster does to its patches."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.methods import make_method
from sclip_plugin.steps.cliptrase import Clusters, by_majority, recalibrated
from sclip_plugin.towers import find_tower


@pytest.mark.parametrize("framework", golden.FRAMEWORKS)
def test_weights(framework):
    with torch.no_grad():
        picture = golden.arrays("inputs")["pixels.112x160"]
        block, _ = make_method("vanilla").reach_last_block(find_tower(golden.model(framework)), picture)
        ours = recalibrated(block, 1)
        for b in range(2):
            total = sum(
                F.cosine_similarity(z[b, h][:, None], z[b, h][None], dim=-1)
                for z in (block.q, block.k, block.v)
                for h in range(2)
            )
            R = total / 6
            golden.assert_equal(ours[b], (R - R[0]).clamp(min=0)[1:, 1:], 2e-5)


def test_two_blobs():
    pytest.importorskip("sklearn")
    R = torch.zeros(9, 9)
    R[:4, :4] = R[4:8, 4:8] = 1.0
    R[8, 8], R[8, 1] = 5.0, 0.5
    clusters = Clusters().clusters(R)
    assert clusters[:8].tolist() == [0] * 4 + [1] * 4
    assert Clusters(eps=0.01, min_samples=5).clusters(torch.eye(4)) is None


def test_majority():
    """Patches 0-2 are a cluster that is mostly of class 1, whose best name there is 2 or 1; patch 3 stands alone."""
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.2, 0.8], [0.7, 0.3, 0.4], [0.9, 0.1, 0.2]])
    ours = by_majority(scores, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1]))
    assert torch.equal(ours[[0, 1, 3]], scores[[0, 1, 3]])
    assert ours[2].tolist() == pytest.approx([0.4, 0.3, 0.7])


def test_as_a_step():
    pytest.importorskip("sklearn")
    seg = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, templates="plain", method="cliptrase")
    picture = sp.draw_scene(seed=3).picture
    plain = seg(picture, ["cat", "dog", "sky"])
    clustered = seg(picture, ["cat", "dog", "sky"], steps=["clusters(eps=0.5)"])
    assert plain.label_map.shape == clustered.label_map.shape
    assert (plain.label_map != clustered.label_map).any()
