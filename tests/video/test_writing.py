"""Overlay videos: whole or not there, of one size, with legends that can be read."""

import av
import numpy as np
import pytest
from PIL import Image

from sclip_plugin.demo import CLASSES
from sclip_plugin.draw.colours import colours_of
from sclip_plugin.errors import SettingError, ShapeError
from sclip_plugin.video import Video
from sclip_plugin.video.writing import Canvas, write_video

from .films import still


def test_an_overlay_is_whole_or_not_there(tmp_path, corner):
    path = tmp_path / "new" / "film.mp4"
    with pytest.raises(RuntimeError, match="in the middle"), write_video(path, 2) as out:
        out.add(corner)
        raise RuntimeError("in the middle")
    assert list(path.parent.iterdir()) == []
    with pytest.raises(SettingError, match="no frame was added"), write_video(path, 2):
        pass
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (1, 1)])
def test_odd_sides_are_completed_not_stretched(tmp_path, size, corner):
    path = tmp_path / "odd.mp4"
    still(path, corner.crop((0, 0, *size)), 2)
    shown = next(Video(path).frames()).picture
    assert shown.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    kept = np.asarray(shown, float)[: size[1], : size[0]]
    assert np.abs(kept - np.asarray(corner, float)[: size[1], : size[0]]).mean() < 6 or size == (1, 1)


def test_without_x264_it_is_mpeg_4(tmp_path, corner, monkeypatch):
    path = tmp_path / "old.mp4"
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    still(path, corner, 4, 2)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    frames = list(Video(path).frames(2))
    assert len(frames) == 4
    assert np.abs(np.asarray(frames[3].picture, float) - np.asarray(corner, float)).mean() < 6


def test_a_frame_of_another_size_is_refused(tmp_path, corner):
    with (
        pytest.raises(ShapeError, match="frame 1 is 32 x 24; expected 64 x 48"),
        write_video(tmp_path / "a.mp4", 1) as out,
    ):
        out.add(corner)
        out.add(corner.resize((32, 24)))


def chips(image, top, labels):
    """Labels whose colour is below the picture."""
    below = np.asarray(image, int)[top:]
    return {
        label
        for label, colour in zip(labels, colours_of(labels), strict=True)
        if (np.abs(below - colour).max(axis=2) == 0).sum() > 50
    }


def test_a_legend_that_fits_stays(corner):
    labels = ["cat", "sofa", "sky"]
    canvas = Canvas((320, 240), labels)
    pictures = [canvas(Image.new("RGB", (320, 240)), amounts) for amounts in ({"cat": 1.0}, {"sky": 0.5, "sofa": 0.5})]
    assert pictures[0].tobytes() == pictures[1].tobytes() and chips(pictures[0], 240, labels) == set(labels)
    assert pictures[0].width == 320 and 240 < pictures[0].height <= 320


def test_of_more_labels_than_fit_those_that_are_seen_keep_their_places():
    labels = list(CLASSES)
    canvas = Canvas((320, 240), labels)
    few = canvas(Image.new("RGB", (320, 240)), {labels[40]: 0.7, labels[3]: 0.3, labels[4]: 0.0})
    many = canvas(Image.new("RGB", (320, 240)), {label: 1 / (1 + i) for i, label in enumerate(labels)})
    none = canvas(Image.new("RGB", (320, 240)), dict.fromkeys(labels, 0.0))
    assert few.size == many.size == none.size == canvas.size and canvas.size == (320, 320)
    assert chips(few, 240, labels) == {labels[40], labels[3]}
    first, later = chips(few, 240, labels), chips(many, 240, labels)
    assert later == first | set(labels[: len(later) - 1]) and len(later) > 5  # labels[3] is among the largest anyway
    assert none.tobytes() == many.tobytes()

    def places(image):
        below = np.asarray(image, int)[240:]
        return {label: (np.abs(below - colours_of([label])[0]).max(axis=2) == 0).nonzero() for label in first}

    for label, (rows, columns) in places(few).items():
        assert (rows.min(), columns.min()) == tuple(np.min(places(many)[label], axis=1))
    other = canvas(Image.new("RGB", (320, 240)), {labels[30]: 0.1, labels[40]: 0.9})
    assert {labels[30], labels[40]} <= chips(other, 240, labels)


def test_frames_are_not_stretched(corner):
    canvas = Canvas(corner.size, ["cat"])
    shown = canvas(corner, {})
    assert canvas.room == (256, 192), "four times as large"
    assert np.array_equal(np.asarray(shown)[:192:4, :256:4], np.asarray(corner))
    tall = canvas(corner.resize((32, 48)), {})
    assert tall.size == shown.size and tall.crop((128, 0, 256, 192)).getextrema() == ((255, 255),) * 3
