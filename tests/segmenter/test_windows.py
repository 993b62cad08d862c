"""Stitching by matrices equals window by window, padded and averaged, then resized."""

import pytest
import torch
import torch.nn.functional as F

from sclip_plugin import windows
from sclip_plugin.windows import LogitMap, WindowPlan, window_starts


def plain_stitching(plan: WindowPlan, logits: torch.Tensor, output_size) -> torch.Tensor:
    """The published procedure: upsample each window, add it into the whole, divide by the counts, resize."""
    total = torch.zeros(len(logits), *plan.size)
    count = torch.zeros(1, *plan.size)
    for index, (top, left) in enumerate(plan.boxes()):
        window = F.interpolate(plan.place(logits, index)[None], size=plan.window, mode="bilinear")[0]
        total[:, top : top + plan.window[0], left : left + plan.window[1]] += window
        count[:, top : top + plan.window[0], left : left + plan.window[1]] += 1
    return F.interpolate((total / count)[None], size=output_size, mode="bilinear")[0]


@pytest.mark.parametrize("size", [(112, 112), (90, 150), (180, 236), (113, 500), (16, 1200)])
@pytest.mark.parametrize("window", [0, 112])
@pytest.mark.parametrize("scale", [1.0, 0.7, 1.63])
def test_stitching_equals_the_plain_procedure(size, window, scale):
    plan = WindowPlan.of(size, window, 56, (16, 16))
    logits = plan.empty_logits(5, torch.zeros(1)).normal_(generator=torch.Generator().manual_seed(0))
    output_size = tuple(round(side * scale) for side in size)
    ours = plan.stitched(logits, output_size)
    assert ours.size == output_size
    torch.testing.assert_close(ours.full(), plain_stitching(plan, logits, output_size), atol=2e-5, rtol=0)


def test_bands_are_the_whole_cut_into_rows(monkeypatch):
    plan = WindowPlan.of((180, 236), 112, 56, (16, 16))
    logits = torch.randn(7, *plan.empty_logits(7, torch.zeros(1)).shape[1:])
    stitched = plan.stitched(logits, (201, 269))
    whole = stitched.full()
    monkeypatch.setattr(windows, "VALUES_AT_ONCE", 7 * 269 * 10)
    monkeypatch.setattr(windows, "COLUMNS_AT_ONCE", 50)
    bands = list(stitched.bands())
    assert len(bands) == 21
    torch.testing.assert_close(torch.cat([band for _, band in bands], dim=1), whole, atol=1e-5, rtol=0)


def test_resizing_a_map_is_bilinear():
    scores = torch.randn(3, 20, 30)
    expected = F.interpolate(scores[None], size=(33, 41), mode="bilinear")[0]
    torch.testing.assert_close(LogitMap(scores).resized((33, 41)).full(), expected, atol=1e-5, rtol=0)
    assert LogitMap(scores).resized((20, 30)).full() is not None


@pytest.mark.parametrize("size", [1, 50, 224, 225, 336, 500, 2048])
def test_windows_cover_every_pixel_and_stay_inside(size):
    starts = window_starts(size, 224, 112)
    covered = set()
    for start in starts:
        assert 0 <= start and start + min(224, size) <= size
        covered |= set(range(start, start + min(224, size)))
    assert covered == set(range(size))
    assert len(starts) == len(set(starts))
