"""Stitching by matrices equals window by window, padded and averaged, then resized."""

from dataclasses import replace

import golden
import pytest
import torch
import torch.nn.functional as F

from sclip_plugin.device import CPU
from sclip_plugin.imaging.tiles import TiledMap
from sclip_plugin.segment.windows import WindowPlan, window_starts


def names_first(scores: torch.Tensor) -> torch.Tensor:
    return scores.permute(2, 0, 1)


def plain_stitching(plan: WindowPlan, logits: torch.Tensor, output_size) -> torch.Tensor:
    """The published procedure: upsample each window, add it into the whole, divide by the counts, resize."""
    total = torch.zeros(logits.shape[2], *plan.size)
    count = torch.zeros(1, *plan.size)
    for index, (top, left, _, _) in enumerate(plan.boxes()):
        patches = names_first(plan.place(logits, index))
        window = F.interpolate(patches[None], size=plan.window, mode="bilinear")[0]
        total[:, top : top + plan.window[0], left : left + plan.window[1]] += window
        count[:, top : top + plan.window[0], left : left + plan.window[1]] += 1
    return F.interpolate((total / count)[None], size=output_size, mode="bilinear")[0]


@pytest.mark.parametrize("size", [(112, 112), (90, 150), (180, 236), (113, 500), (16, 1200)])
@pytest.mark.parametrize("window", [0, 112])
@pytest.mark.parametrize("scale", [1.0, 0.7, 1.63])
def test_stitching_equals_the_plain_procedure(size, window, scale):
    plan = WindowPlan.of(size, window, 56, (16, 16))
    # Cosines: from -1 to 1.
    logits = plan.empty_values(5, torch.zeros(1)).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    output_size = tuple(round(side * scale) for side in size)
    ours = plan.stitched(logits, output_size)
    assert ours.size == output_size
    expected = plain_stitching(plan, logits, output_size)
    golden.assert_equal(names_first(ours.full()), expected)


def test_half_of_a_windows_padding_is_in_front():
    """A window of 20 pixels, padded to two patches of 16 pixels: six pixels in front and six behind."""
    plan = WindowPlan((20, 20), (20, 20), [0], [0], (2, 2), (32, 32))
    padded = plan.pad(torch.ones(1, 3, 20, 20), torch.zeros(3))
    assert padded.shape == (1, 3, 32, 32) and padded[..., 6:26, 6:26].all() and padded.sum() == 3 * 20 * 20
    scores = torch.rand(2, 2, 1)
    upsampled = F.interpolate(names_first(scores)[None], size=(32, 32), mode="bilinear")[0]
    golden.assert_equal(names_first(plan.stitched(scores).full()), upsampled[:, 6:26, 6:26])


@pytest.mark.parametrize("limits", [(7 * 10 * 50, 50), (1, 1), (2**30, 2**30)], ids=["some", "pixels", "one"])
def test_tiles_are_the_whole_cut_up(monkeypatch, limits):
    plan = WindowPlan.of((180, 236), 112, 56, (16, 16))
    stitched = plan.stitched(torch.randn(plan.empty_values(7, torch.zeros(1)).shape), (51, 69))
    expected = plain_stitching(plan, stitched.values, (51, 69))
    monkeypatch.setattr("sclip_plugin.device.CPU", replace(CPU, tile_values=limits[0], tile_columns=limits[1]))
    whole = torch.full((7, 51, 69), torch.nan)
    for (rows, columns), tile in stitched.tiles():
        assert whole[:, rows, columns].isnan().all()
        assert tile.numel() <= max(limits[0], 7)
        whole[:, rows, columns] = names_first(tile)
    golden.assert_equal(whole, expected)


def test_resizing_a_map_is_bilinear():
    scores = torch.randn(20, 30, 3)
    expected = F.interpolate(names_first(scores)[None], size=(33, 41), mode="bilinear")[0]
    golden.assert_equal(names_first(TiledMap(scores).resized((33, 41)).full()), expected)
    assert torch.equal(TiledMap(scores).resized((20, 30)).full(), scores)


def test_weights_are_not_rounded_under_autocast():
    stitched = WindowPlan.of((48, 64), 32, 16, (16, 16)).stitched(torch.randn(4, 6, 3), (90, 70))
    with torch.autocast("cpu", torch.bfloat16):
        under = stitched.resized((41, 33)).full()
    assert torch.equal(under, stitched.resized((41, 33)).full())


@pytest.mark.parametrize("size", [1, 50, 224, 225, 336, 500, 2048])
def test_windows_cover_every_pixel_and_stay_inside(size):
    starts = window_starts(size, 224, 112)
    covered = set()
    for start in starts:
        assert 0 <= start and start + min(224, size) <= size
        covered |= set(range(start, start + min(224, size)))
    assert covered == set(range(size))
    assert len(starts) == len(set(starts))
