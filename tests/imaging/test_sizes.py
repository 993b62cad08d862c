"""Pictures of sizes that nobody has: refused in a sentence before anything is computed; thin ones are segmented."""

from __future__ import annotations

import io
import resource
import sys
import time

import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import PictureError
from sclip_plugin.segment.encoding import Prepared
from sclip_plugin.segment.windows import WindowPlan

LONG = 24_000_000


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain")


def line(size) -> bytes:
    """As a PNG: kilobytes."""
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


WAYS = {
    "called": lambda seg, picture: seg(picture, ["cat"]),
    "not resized": lambda seg, picture: seg(picture, ["cat"], resize_short_side=0),
    "whole": lambda seg, picture: seg(picture, ["cat"], resize_short_side=0, window=0),
    "encoded": lambda seg, picture: seg.encode(picture),
    "prepared": lambda seg, picture: seg.prepare(picture),
    "streamed": lambda seg, picture: list(seg.stream([picture], ["cat"])),
}


@pytest.mark.parametrize("size", [(LONG, 1), (1, LONG), (5_000_000, 4)])
@pytest.mark.parametrize("way", WAYS)
def test_a_line_of_pixels_is_refused_at_once(segmenter, way, size):
    picture = Image.new("RGB", size)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(PictureError, match=f"{size[0]:,} x {size[1]:,} pixels: one side .* GiB. Cut it"):
        WAYS[way](segmenter, picture)
    assert time.monotonic() - start < 10
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_of_several_pictures_it_is_the_one_that_is_left_out(segmenter):
    scene = sp.draw_scene(seed=1, size=(48, 48)).picture
    results = segmenter([scene, Image.new("RGB", (LONG, 1)), scene], ["cat", "grass"], on_error="return")
    assert [isinstance(result, PictureError) for result in results] == [False, True, False]


def test_pixels_that_are_prepared_elsewhere(segmenter):
    with pytest.raises(PictureError, match="one side"):
        segmenter(Prepared(None, torch.zeros(3, 16, 96, dtype=torch.uint8), (1, LONG)), ["cat"])


def test_the_server_says_so_too(segmenter):
    testclient = pytest.importorskip("fastapi.testclient")
    from sclip_plugin.integrations.serve import make_server

    with testclient.TestClient(make_server(segmenter)) as client:
        answer = client.post("/segment", files={"picture": ("a.png", line((LONG, 1)))}, data={"labels": "cat"})
    assert 400 <= answer.status_code < 500 and "one side is so much longer" in answer.text


def test_an_index_notes_it_and_goes_on(segmenter, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/line.png").write_bytes(line((LONG, 1)))
    sp.draw_scene(seed=1, size=(48, 48)).picture.save(tmp_path / "photos/scene.png")
    found = sp.Index.build(segmenter, tmp_path / "photos", tmp_path / "index").search("cat", top=5)
    assert [hit.path for hit in found] == ["scene.png"]


@pytest.mark.parametrize("size", [(9000, 1), (1, 9000), (30_000, 40), (1, 1)])
def test_thin_pictures_are_segmented(segmenter, size):
    assert segmenter(Image.new("RGB", size), ["cat"]).label_map.shape == size[::-1]


@pytest.mark.parametrize("size", [(2900, 30_000), (9400, 9400), (4000, 6000), (300, 12_000)])
@pytest.mark.parametrize("window", [0, 224])
def test_large_pictures_as_people_have_them_pass(size, window):
    WindowPlan.of(size, window, 112, (16, 16)).check_cost(size)
    resized = tuple(max(16, round(side * 336 / min(size))) for side in size)
    WindowPlan.of(resized, window, 112, (16, 16)).check_cost(size)


def test_the_limit_is_on_what_the_matrices_take(segmenter):
    """They are counted, not guessed: at the longest line that passes they have that many bytes."""
    plan = WindowPlan.of((16, 2048), 224, 112, (16, 16))
    longest = max(width for width in range(2**17, 2**19, 2**10) if _passes(plan, (1, width)))
    stitched = plan.stitched(plan.empty_values(1, torch.zeros(1)), (1, longest))
    taken = 4 * (stitched.rows.numel() + stitched.columns.numel())
    assert 0.98 * 2**28 < taken <= 2**28


def _passes(plan, size):
    try:
        plan.check_cost(size)
    except PictureError:
        return False
    return True
