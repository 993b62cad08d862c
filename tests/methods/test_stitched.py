"""Windows joined before the last block, for any method."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.dense import dense_and_embedding, projected
from sclip_plugin.errors import SettingError
from sclip_plugin.methods import make_method, methods_alone
from sclip_plugin.methods.stitched import Stitched
from sclip_plugin.settings import Settings
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.running import WholePicture, Window, before_last_block

from .models import METHODS

pytestmark = pytest.mark.usefixtures("without_gradients")

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8))
WIDE = torch.cat([*golden.arrays("inputs")["pixels.112x112"]], dim=2)[None]  # two pictures beside each other


def features(method, pixels, window, stride):
    whole = WholePicture(pixels[0], window=window, stride=stride)
    windows = [Window(whole, (0, 0, *pixels.shape[-2:]))]
    tower = find_tower(golden.model())
    rows, ran, _ = projected(tower, pixels, method, windows, embedding=False, reach=Stitched(method))
    return rows.mT.unflatten(2, ran.grid)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_one_window_is_the_method_as_it_is(method):
    pixels = golden.arrays("inputs")["pixels.112x112"][:1]
    plain = dense_and_embedding(find_tower(golden.model()), pixels, method, embedding=False)[0]
    for window in (0, 112, 224):
        assert torch.equal(features(method, pixels, window, 56), plain)


@pytest.mark.parametrize("name", ["csa", "naclip", "clearclip"])
def test_windows_that_tile_are_one_pass_of_the_last_block_over_all_their_patches(name):
    """By hand: the tokens of two windows, put on one grid, and the method over it."""
    tower, method = find_tower(golden.model()), make_method(name)
    stitched = features(method, WIDE, 112, 112)
    blocks = [before_last_block(tower, half)[0] for half in WIDE.split(112, dim=3)]
    _, context = before_last_block(tower, WIDE)
    patches = torch.cat([block.tokens[:, 1:].unflatten(1, (7, 7)) for block in blocks], dim=2).flatten(1, 2)
    first = (blocks[0].tokens[:, :1] + blocks[1].tokens[:, :1]) / 2
    tokens = method(tower.block_input(tower.blocks[-1], torch.cat([first, patches], dim=1)), context)
    golden.assert_equal(stitched, tower.project(tokens[:, 1:]).mT.unflatten(2, (7, 14)))


def test_overlaps_are_means_and_stand_on_whole_patches():
    tower = find_tower(golden.model())
    value = make_method("maskclip")  # each patch keeps its own value, so overlaps show as means of what enters
    stitched = features(value, WIDE, 112, 40)  # every 2 patches: 0, 2, 4, 6, and 7
    starts = [0, 2, 4, 6, 7]
    total, seen = torch.zeros(7, 14, 128), torch.zeros(7, 14, 1)
    for start in starts:
        tokens = before_last_block(tower, WIDE[..., start * 16 : start * 16 + 112])[0].tokens[0, 1:]
        total[:, start : start + 7] += tokens.unflatten(0, (7, 7))
        seen[:, start : start + 7] += 1
    block = tower.block_input(tower.blocks[-1], (total / seen).flatten(0, 1)[None])
    golden.assert_equal(stitched, tower.project(block.out(block.v)).mT.unflatten(2, (7, 14)))


@pytest.mark.parametrize("name", methods_alone())
def test_every_method_through_a_segmenter(segmenter, name):
    settings = {"method": name, "window": 112, "stride": 56}
    stitched = segmenter(PICTURE, ["cat", "dog", "sofa"], stitched=True, **settings)
    plain = segmenter(PICTURE, ["cat", "dog", "sofa"], **settings)
    assert stitched.size == plain.size and (stitched.scores != plain.scores).any()
    whole = {"method": name, "window": 0}
    np.testing.assert_array_equal(
        segmenter(PICTURE, ["cat", "dog", "sofa"], stitched=True, **whole).label_map,
        segmenter(PICTURE, ["cat", "dog", "sofa"], **whole).label_map,
    )


def test_an_encoded_picture_answers_too(segmenter, tmp_path):
    encoded = segmenter.encode(PICTURE, dtype=torch.float32, stitched=True)
    labels = segmenter(PICTURE, ["cat", "dog"], stitched=True).label_map
    np.testing.assert_array_equal(encoded.segment(["cat", "dog"]).label_map, labels)
    encoded.save(tmp_path / "a")
    loaded = sp.Encoded.load(tmp_path / "a", segmenter)
    np.testing.assert_array_equal(loaded.segment(["cat", "dog"]).label_map, labels)
    with pytest.raises(SettingError, match="stitched=False"):
        encoded.segment(["cat"], stitched=False)


def test_a_method_that_cuts_windows_itself_is_refused():
    with pytest.raises(SettingError, match="trident joins windows itself"):
        Settings(method="trident", stitched=True)
