"""What others can add without touching a file of this package, shown by adding it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sclip_plugin as sp
from sclip_plugin.methods import METHODS
from sclip_plugin.methods.attention import ClearCLIP
from sclip_plugin.towers.running import Context, before_last_block

from .models import golden_model, pixels


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


@dataclass(frozen=True, kw_only=True)
class Stitching(ClearCLIP):
    """Windows through all blocks but the last, then the last over the whole picture, as OV-Stitcher and Trident do."""

    window: int = 7  # in patches
    stride: int = 7

    def reach_last_block(self, tower, pixel_values, hidden_states=None, windows=(), taps=()):
        (h, w), (ph, pw), side, P = tower.grid(pixel_values), tower.patch_size, self.window, tower.prefix_tokens
        tops, lefts = (sorted({*range(0, n - side, self.stride), n - side}) for n in (h, w))
        corners = [(top, left) for top in tops for left in lefts]
        windows = [pixel_values[..., y * ph : (y + side) * ph, x * pw : (x + side) * pw] for y, x in corners]
        block, _ = before_last_block(tower, torch.cat(windows), self.taps(len(tower.blocks)), self.position_resize)
        tokens = block.tokens.unflatten(0, (len(corners), -1))
        whole = tokens.new_zeros(pixel_values.shape[0], h, w, tokens.shape[-1])
        seen = tokens.new_zeros(h, w, 1)
        for (y, x), window in zip(corners, tokens[:, :, P:].unflatten(2, (side, side)), strict=True):
            whole[:, y : y + side, x : x + side] += window
            seen[y : y + side, x : x + side] += 1
        stitched = torch.cat([tokens[:, :, :P].mean(dim=0), (whole / seen).flatten(1, 2)], dim=1)
        tower = tower.at_grid((h, w))
        return tower.block_input(tower.blocks[-1], stitched), Context(tower, pixel_values, (h, w))


@pytest.fixture(autouse=True)
def _registered(own_registries, without_gradients):
    """The two are there for each test."""
    sp.register_method("proxy")(Proxy)
    sp.register_method("stitching")(Stitching)


def colour_encoder() -> nn.Module:
    """A frozen "encoder" with a stride of its own: the mean colour of 8 x 8 pixels."""
    return nn.AvgPool2d(8)


def test_a_method_that_takes_features_from_outside():
    """Patches that the encoder finds alike get one feature; those it finds opposite do not see each other."""
    picture = pixels(112, 160) * 0.01
    picture[..., :80] += torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    picture[..., 80:] -= torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    features = sp.dense_features(golden_model(), picture, "proxy", encoder=colour_encoder(), beta=0.5)
    left, right = features[0, :, :, :5].flatten(1), features[0, :, :, 5:].flatten(1)
    for half in (left, right):
        assert golden.relative_difference(half, half[:, :1].expand_as(half)) < 1e-2
    assert F.cosine_similarity(left[:, 0], right[:, 0], dim=0) < 0.999


def test_it_works_in_place_too():
    picture = golden.arrays("inputs")["pixels.112x112"]
    model = sp.apply(golden.model("timm"), "proxy", encoder=colour_encoder())
    patches = model.head(model.forward_features(picture)[:, 1:])
    functional = sp.dense_features(golden.model("timm"), picture, "proxy", encoder=colour_encoder())
    assert golden.relative_difference(patches, functional.flatten(2).mT) < 1e-5
    assert not any("pool" in name for name in model.state_dict())


def test_a_method_that_stitches_windows_before_the_last_block():
    picture = golden.arrays("inputs")["pixels.112x112"]
    whole = sp.dense_features(golden_model(), picture, "stitching", window=7)
    golden.assert_equal(whole, sp.dense_features(golden_model(), picture, "clearclip"))

    wide = torch.cat([picture, picture.flip(0)], dim=3)  # two windows beside each other
    stitched = sp.dense_features(golden_model(), wide, "stitching", window=7)
    assert stitched.shape == (2, 64, 7, 14)
    changed = wide.clone()
    changed[..., 112:] = 0
    # The windows do not see each other in the first blocks but do in the last: the left half answers to the right one.
    left_before, left_after = stitched[..., :7], sp.dense_features(golden_model(), changed, "stitching")[..., :7]
    assert golden.relative_difference(left_after, left_before) > 1e-3


def test_overlapping_windows_in_place():
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


def test_a_name_is_registered_once():
    @dataclass(frozen=True, kw_only=True)
    class Mine(sp.AttentionMethod):
        def similarities(self, block):
            return [(block.q, block.v)]

    for taken in ("csa", "sclip"):
        with pytest.raises(sp.SclipError, match=f"method '{taken}' is registered already"):
            sp.register_method(taken)(Mine)
    sp.register_method("mine-once")(Mine)
    sp.register_method("mine-once", replace=True)(Mine)
    assert METHODS["mine-once"] is Mine and METHODS["sclip"] is METHODS["csa"] and "sclip" not in sp.list_methods()


def test_a_plug_in_that_fails_is_warned_of_once_and_the_others_load(monkeypatch):
    from sclip_plugin import registry

    class EntryPoint:
        def __init__(self, name, load):
            self.name, self.load, self.value = name, load, f"package:{name}"

    def broken():
        raise ImportError("no module named 'cuda_11'")

    class Works:
        pass

    points = [EntryPoint("broken", broken), EntryPoint("works", lambda: Works)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    fresh = registry.Registry("method", "anything")
    with pytest.warns(UserWarning, match="method 'broken' of package:broken could not be loaded: ImportError"):
        assert fresh.names() == ("works",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh["works"] is Works
