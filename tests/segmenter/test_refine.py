"""PAMR as a weighted gather equals the plain formula, whole and in parts."""

from dataclasses import replace

import golden
import pytest
import torch
import torch.nn.functional as F

from sclip_plugin.device import CPU
from sclip_plugin.imaging.refine import pamr, refine_pixels


def plain_pamr(mask: torch.Tensor, image: torch.Tensor, steps: int, dilations: tuple[int, ...]) -> torch.Tensor:
    """The formula of METHODS.md with shifted copies of the whole, (B, K, H, W) by (B, 3, H, W)."""
    height, width = image.shape[-2:]
    reach = max(dilations)

    def shifted(x: torch.Tensor, own: bool) -> torch.Tensor:
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        copies = []
        for d in dilations:
            for dy in (-d, 0, d):
                for dx in (-d, 0, d):
                    if own or (dy, dx) != (0, 0):
                        top, left = reach + dy, reach + dx
                        copies.append(padded[:, :, top : top + height, left : left + width])
        return torch.stack(copies)

    deviation = shifted(image, own=True).std(dim=0)
    distance = (image - shifted(image, own=False)).abs() / (1e-8 + 0.1 * deviation)
    weights = (-distance.mean(dim=2, keepdim=True)).softmax(dim=0)
    for _ in range(steps):
        mask = (weights * shifted(mask, own=False)).sum(dim=0)
    return mask


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 5, 6, generator=generator)
    image = F.interpolate(coarse, size=(40, 56), mode="bilinear") + 0.1 * torch.randn(2, 3, 40, 56, generator=generator)
    return torch.randn(2, 40, 40, 56, generator=generator), image


@pytest.mark.parametrize("dilations", [(1,), (2, 5), (8, 16)], ids=str)
def test_equals_the_formula(inputs, dilations):
    mask, image = inputs
    expected = plain_pamr(mask, image, 4, dilations)
    golden.assert_equal(pamr(mask, image, 4, dilations), expected)


def test_names_in_parts_change_nothing(inputs, monkeypatch):
    mask, image = inputs
    whole = pamr(mask, image, 4)
    monkeypatch.setattr("sclip_plugin.device.CPU", replace(CPU, pamr_values=1))
    golden.assert_equal(pamr(mask, image, 4), whole)


def test_the_result_is_linear_in_the_scores(inputs):
    """What ResCLIP's first pass rests on where there are more names than patches."""
    mask, image = inputs
    scores, mix = mask[0].flatten(1).T, torch.randn(40, 100, generator=torch.Generator().manual_seed(1)) / 40
    expected = refine_pixels(scores @ mix, image[0])
    golden.assert_equal(refine_pixels(scores, image[0]) @ mix, expected)


def test_a_smaller_map_is_enlarged_with_its_corners_kept():
    small, image = torch.rand(1, 2, 4, 5), torch.rand(1, 3, 12, 15)
    large = F.interpolate(small, size=(12, 15), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pamr(small, image, steps=1), pamr(large, image, steps=1))
