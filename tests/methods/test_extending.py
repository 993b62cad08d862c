"""What others can add without touching a file of this package, shown by adding it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sclip_plugin as sp
from sclip_plugin.dense import Context, before_last_block
from sclip_plugin.methods import METHODS, make_method

from .models import golden_model, pixels


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    with torch.no_grad():
        yield


def define_proxy():
    @sp.register_method("proxy")
    @dataclass(frozen=True, kw_only=True)
    class Proxy(sp.AttentionMethod):
        """Attention from another model's features, as ProxyCLIP (arXiv 2408.04883) and Trident take DINO's and SAM's."""

        encoder: nn.Module = field(compare=False)
        residual: bool = False
        ffn: bool = False
        gamma: float = 3.0
        beta: float = 1.2

        def attend(self, block, context):
            features = F.interpolate(self.encoder(context.pixel_values), size=context.grid, mode="bilinear")
            features = F.normalize(features.flatten(2).mT, dim=-1)
            similarity = features @ features.mT
            score = self.gamma * (similarity - self.beta * similarity.mean(dim=(1, 2), keepdim=True))
            attention = score.masked_fill(score < 0, float("-inf")).softmax(dim=-1)[:, None]
            prefix = context.prefix_tokens
            return torch.cat([block.v[:, :, :prefix], attention @ block.v[:, :, prefix:]], dim=2)

    return Proxy


def colour_encoder() -> nn.Module:
    """A frozen "encoder" with a stride of its own: the mean colour of 8 x 8 pixels."""
    return nn.AvgPool2d(8)


def test_a_method_that_takes_features_from_outside():
    """Patches that the encoder finds alike get one feature; those it finds opposite do not see each other."""
    define_proxy()
    picture = pixels(112, 160) * 0.01
    picture[..., :80] += torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    picture[..., 80:] -= torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    features = sp.dense_features(golden_model(), picture, "proxy", encoder=colour_encoder(), beta=0.5)
    left, right = features[0, :, :, :5].flatten(1), features[0, :, :, 5:].flatten(1)
    for half in (left, right):
        assert golden.relative_difference(half, half[:, :1].expand_as(half)) < 1e-2
    assert F.cosine_similarity(left[:, 0], right[:, 0], dim=0) < 0.999


def test_it_works_in_place_too():
    define_proxy()
    picture = golden.arrays("inputs")["pixels.112x112"]
    model = sp.apply(golden.model("timm"), "proxy", encoder=colour_encoder())
    patches = model.head(model.forward_features(picture)[:, 1:])
    functional = sp.dense_features(golden.model("timm"), picture, "proxy", encoder=colour_encoder())
    assert golden.relative_difference(patches, functional.flatten(2).mT) < 1e-5
    assert not any("pool" in name for name in model.state_dict())


def define_stitching():
    @sp.register_method("stitching")
    @dataclass(frozen=True, kw_only=True)
    class Stitching(type(make_method("clearclip"))):
        """Windows through all blocks but the last, then the last over the whole picture, as OV-Stitcher and Trident do."""

        window: int = 7  # in patches
        stride: int = 7

        def reach_last_block(self, tower, pixel_values, hidden_states=None):
            h, w = grid = tower.grid(pixel_values)
            ph, pw = tower.patch_size
            tops, lefts = (sorted({*range(0, n - self.window, self.stride), n - self.window}) for n in grid)
            corners = [(top, left) for top in tops for left in lefts]
            cut = [
                pixel_values[..., top * ph : (top + self.window) * ph, left * pw : (left + self.window) * pw]
                for top, left in corners
            ]
            block, context = before_last_block(tower, torch.cat(cut), self.taps(context_depth(tower)))
            tokens = block.tokens.unflatten(0, (len(corners), -1))
            prefix, patches = tokens[:, :, : tower.prefix_tokens], tokens[:, :, tower.prefix_tokens :]
            whole = patches.new_zeros(pixel_values.shape[0], h, w, patches.shape[-1])
            seen = torch.zeros(h, w, 1)
            for (top, left), window in zip(corners, patches, strict=True):
                place = (slice(top, top + self.window), slice(left, left + self.window))
                whole[:, *place] += window.unflatten(1, context.grid)
                seen[place] += 1
            stitched = torch.cat([prefix.mean(dim=0), (whole / seen).flatten(1, 2)], dim=1)
            tower = tower.at_grid(grid)
            return tower.block_input(tower.blocks[-1], stitched), Context(tower, pixel_values, grid)

    def context_depth(tower):
        return len(tower.blocks)

    return Stitching


def test_a_method_that_stitches_windows_before_the_last_block():
    define_stitching()
    picture = golden.arrays("inputs")["pixels.112x112"]
    whole = sp.dense_features(golden_model(), picture, "stitching", window=7)
    assert torch.allclose(whole, sp.dense_features(golden_model(), picture, "clearclip"), atol=1e-6)

    wide = torch.cat([picture, picture.flip(0)], dim=3)  # two windows beside each other
    stitched = sp.dense_features(golden_model(), wide, "stitching", window=7)
    assert stitched.shape == (2, 64, 7, 14)
    changed = wide.clone()
    changed[..., 112:] = 0
    # The windows do not see each other in the first blocks but do in the last: the left half answers to the right one.
    left_before, left_after = stitched[..., :7], sp.dense_features(golden_model(), changed, "stitching")[..., :7]
    assert golden.relative_difference(left_after, left_before) > 1e-3


def test_overlapping_windows_in_place():
    define_stitching()
    picture = golden.arrays("inputs")["pixels.144x144"]
    functional = sp.dense_features(golden_model(), picture, "stitching", stride=1)
    model = sp.apply(golden.model(), "stitching", stride=1)
    tokens = model.vision_model.post_layernorm(model.vision_model(picture).last_hidden_state[:, 1:])
    assert functional.shape == (2, 64, 9, 9)
    assert golden.relative_difference(model.visual_projection(tokens), functional.flatten(2).mT) < 1e-5


def test_a_method_by_decorator():
    @sp.register_method("halved")
    @dataclass(frozen=True, kw_only=True)
    class Halved(sp.AttentionMethod):
        """csa, the sum halved."""

        weight: float = 0.5

        def similarities(self, block):
            return [(block.q, block.q), (block.k, block.k)]

        def attend(self, block, context):
            return self.weight * super().attend(block, context)

    assert "halved" in sp.list_methods()
    picture = golden.arrays("inputs")["pixels.112x112"]
    csa = sp.dense_features(golden_model(), picture, "csa")
    assert torch.equal(sp.dense_features(golden_model(), picture, "halved", weight=1.0), csa)
    assert not torch.equal(sp.dense_features(golden_model(), picture, "halved"), csa)


def test_a_method_by_entry_point(tmp_path):
    """An installed distribution names it in its metadata; nobody imports its module."""
    (tmp_path / "theirs.py").write_text(
        "from dataclasses import dataclass\n"
        "from sclip_plugin import AttentionMethod\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Theirs(AttentionMethod):\n"
        "    '''Theirs.'''\n"
        "    power: int = 1\n"
        "    def similarities(self, block):\n"
        "        return [(block.v, block.v)] * self.power\n"
    )
    metadata = tmp_path / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sclip_plugin.methods]\ntheirs = theirs:Theirs\n")
    ask = (
        "import sclip_plugin as sp; from sclip_plugin.methods import make_method\n"
        "method = make_method('theirs', {'power': 2})\n"
        "assert method.name == 'theirs' and method.power == 2, method\n"
        "assert 'theirs' in sp.list_methods()\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(sp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", ask], check=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
