"""What is kept of a picture: small things have a region of their own, 8 bits are near, and it stays under 40 KB."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sclip_plugin.index.regions import REGIONS, cosines, quantised, reduced


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_a_thing_of_one_patch_has_a_region_of_its_own():
    features = (unit(1, 1, 64) + 0.15 * unit(20, 30, 64)).permute(2, 0, 1)
    features[:, 7, 11] = unit(64)
    kept = reduced(features, unit(64))
    own = kept.map == kept.map[7, 11]
    assert own.sum() == 1 and len(kept.vectors) <= REGIONS
    vector = kept.vectors[kept.map[7, 11]] * kept.scales[kept.map[7, 11]]
    assert vector @ F.normalize(features[:, 7, 11], dim=0).numpy() > 0.999


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 6))
def test_every_patch_has_a_region_and_every_region_a_patch(height, width, channels, kinds):
    generator = torch.Generator().manual_seed(height * width)
    directions = F.normalize(torch.randn(kinds, channels, generator=generator), dim=1)
    features = directions[torch.randint(kinds, (height, width), generator=generator)].permute(2, 0, 1)
    kept = reduced(features, F.normalize(torch.ones(channels), dim=0))
    assert kept.map.shape == (height, width) and set(kept.map.flat) == set(range(len(kept.vectors)))
    assert len(kept.vectors) <= min(REGIONS, height * width) and np.isfinite(kept.scales).all()
    back = torch.from_numpy((kept.vectors * kept.scales[:, None])[kept.map]).permute(2, 0, 1)
    assert torch.allclose(back, F.normalize(features, dim=0), atol=0.01)  # patches that are alike share one


@pytest.mark.parametrize("channels", [512, 768, 1024, 1280])
def test_a_picture_takes_less_than_40_kb(channels):
    kept = reduced(torch.randn(channels, 24, 32), unit(channels))  # 336 pixels by 448, in patches of 14
    arrays = (kept.map, kept.vectors, kept.scales, kept.image)
    assert sum(array.nbytes for array in arrays) < 39_000 and len(kept.vectors) >= 28


def test_cosines_in_8_bits_are_near():
    vectors, queries = unit(3000, 512), unit(5, 512)
    found = cosines(*quantised(vectors), queries.numpy())
    assert np.abs(found - (vectors @ queries.T).numpy()).max() < 0.002
