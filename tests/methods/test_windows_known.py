"""What a method may know of the picture that its windows come from."""

from __future__ import annotations

import dataclasses

import golden
import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.methods import Dense
from sclip_plugin.methods.attention import ClearCLIP

PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (size[0], size[1], 3), dtype=np.uint8))
    for i, size in enumerate([(150, 230), (230, 150), (112, 112)])
]
LOG: list = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noting(ClearCLIP):
    """clearclip, noting each window; what is made once a picture is counted."""

    def __call__(self, block, context):
        assert len(context.windows) == len(context.pixel_values)
        for window, values in zip(context.windows, context.pixel_values, strict=True):
            number = window.picture.once("number", lambda: LOG.append("made") or len(LOG))
            LOG.append((number, window, values))
        return super().__call__(block, context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves(sp.PictureMethod):
    """Whole pictures, cut by the method: here not at all, and given back on half the grid."""

    def window(self, asked):
        return 0

    def __call__(self, block, context):
        (window,) = context.windows
        assert window.box == (0, 0, *window.picture.pixels.shape[1:])
        LOG.append((window.picture.window, window.picture.stride))
        patches = context.tower.project(ClearCLIP()(block, context)[:, 1:]).mT.unflatten(2, context.grid)
        grid = tuple(max(1, side // 2) for side in context.grid)
        return Dense(F.adaptive_avg_pool2d(patches, grid).flatten(2).mT, grid)


@pytest.fixture
def segmenter():
    LOG.clear()
    return sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, templates="plain")


def test_windows_know_their_picture_and_their_box(segmenter):
    results = segmenter(PICTURES, ["cat", "dog"], method=Noting())
    plain = segmenter(PICTURES, ["cat", "dog"], method="clearclip")
    assert LOG.count("made") == 3
    noted = [entry for entry in LOG if entry != "made"]
    assert {id(window.picture.original) for _, window, _ in noted} == {id(result.picture) for result in results}
    for _, window, values in noted:
        top, left, height, width = window.box
        cut = window.picture.pixels[:, top : top + height, left : left + width]
        golden.assert_equal(
            values * segmenter.encoder.std[:, None, None] + segmenter.encoder.mean[:, None, None], cut / 255
        )
    for ours, theirs in zip(results, plain, strict=True):
        np.testing.assert_array_equal(ours.label_map, theirs.label_map)


def test_a_method_that_cuts_windows_itself(segmenter):
    results = segmenter(PICTURES, ["cat", "dog"], method=Halves(), window=64, stride=32)
    assert LOG == [(64, 32)] * 3
    assert [result.size for result in results] == [(150, 230), (230, 150), (112, 112)]
    encoded = segmenter.encode(PICTURES[0], method=Halves())
    assert encoded.vectors.shape == (168 // 16 // 2, 257 // 16 // 2, 64) and len(encoded.plan) == 1
