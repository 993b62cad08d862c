"""Labels of a video: as of its frames alone, each with its time; smoothed, if asked for, and then steadier."""

import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, LabelError, SettingError, UnknownNameError
from sclip_plugin.segment.encoding import PICTURES_AT_ONCE
from sclip_plugin.segment.smoothing import MovingMean
from sclip_plugin.video import Video
from sclip_plugin.video.reading import Frame


@pytest.fixture(scope="module")
def labels(scenes):
    return sorted({label for scene in scenes for label in scene.labels})


def test_a_video_is_segmented_as_its_frames_are_alone(seg, film, labels):
    found = list(sp.segment_video(seg, film, labels, fps=0.5, method="naclip"))
    assert [frame.time for frame, _ in found] == [0, 2, 4, 6]
    assert [frame.index for frame, _ in found] == [0, 10, 20, 30]
    for (frame, result), read in zip(found, Video(film).frames(0.5), strict=True):
        assert frame.picture.tobytes() == read.picture.tobytes() == result.picture.tobytes()
        alone = seg(read.picture, labels, method="naclip")
        assert (result.label_map == alone.label_map).all()
        assert np.abs(result.scores - alone.scores).max() < 1e-5


def test_results_are_of_the_scenes(seg, film, scenes, labels):
    for (_, result), scene in zip(sp.segment_video(seg, film, labels, fps=0.5), scenes, strict=True):
        truth = np.array([labels.index(label) for label in scene.labels])[scene.label_map]
        assert (result.label_map == truth).mean() > 0.6


def test_mistakes_are_said_before_the_first_frame(seg, film, tmp_path):
    with pytest.raises(SettingError, match="fps=0"):
        sp.segment_video(seg, film, ["cat"], fps=0)
    with pytest.raises(SettingError, match=r"smoothing=1\.0; expected the share"):
        sp.segment_video(seg, film, ["cat"], smoothing=1.0)
    with pytest.raises(LabelError):
        sp.segment_video(seg, film, [])
    with pytest.raises(UnknownNameError, match="windwo"):
        sp.segment_video(seg, film, ["cat"], windwo=3)
    with pytest.raises(FileFormatError):
        sp.segment_video(seg, tmp_path, ["cat"])


def test_frames_are_read_as_they_are_needed(seg, monkeypatch, corner, film):
    """Of an endless video too: what waits is one batch, or 16 frames."""
    taken = []

    def endless(self, fps, report):
        while True:
            taken.append(1)
            yield Frame(float(len(taken)), len(taken), corner)

    monkeypatch.setattr(Video, "frames", endless)
    stream = sp.segment_video(seg, film, ["cat", "grass"])
    assert not taken
    for count in range(1, 40):
        frame, _ = next(stream)
        assert frame.index == count and len(taken) < count + PICTURES_AT_ONCE


def noisy(count, seed=0, sigma=40):
    """A scene that stays, under noise that does not."""
    scene = sp.draw_scene(1_000_000_000)
    rng = np.random.default_rng(seed)
    clean = np.asarray(scene.picture, float)
    return scene, [
        Image.fromarray((clean + rng.normal(0, sigma, clean.shape)).clip(0, 255).astype(np.uint8)) for _ in range(count)
    ]


def flicker(maps):
    """The share of pixels whose label is another one than in the frame before."""
    return float(np.mean([(a != b).mean() for a, b in zip(maps[:-1], maps[1:], strict=True)]))


def test_smoothing_takes_flicker_away_and_not_what_is_there(seg):
    scene, frames = noisy(8)
    maps = {s: [r.label_map for r in seg.stream(frames, scene.labels, smoothing=s)] for s in (0.0, 0.5, 0.8)}
    steps = {s: flicker(found[3:]) for s, found in maps.items()}
    assert steps[0.0] > 0.02 and steps[0.5] < 0.6 * steps[0.0] and steps[0.8] < 0.6 * steps[0.5]
    right = {s: np.mean([(found == scene.label_map).mean() for found in maps[s][3:]]) for s in maps}
    assert right[0.8] >= right[0.0] and right[0.5] >= right[0.0]


def test_without_smoothing_nothing_changes(seg):
    scene, frames = noisy(3)
    for one, other in zip(seg.stream(frames, scene.labels), seg.stream(frames, scene.labels, smoothing=0), strict=True):
        assert (one.label_map == other.label_map).all() and (one.scores == other.scores).all()
    (first, *_) = seg.stream(frames, scene.labels, smoothing=0.9)
    assert (first.label_map == seg(frames[0], scene.labels).label_map).all(), "the first has none before it"


@pytest.mark.parametrize("steps", [(), ("surgery",)], ids=["plain", "with a step"])
def test_smoothing_is_the_moving_mean_of_the_scores(seg, steps):
    scene, frames = noisy(3)
    how = {"steps": steps}
    alone = [seg(frame, scene.labels, **how)._scores.maps.full() for frame in frames]
    mean = alone[0]
    for result, scores in zip(seg.stream(frames, scene.labels, smoothing=0.25, **how), alone, strict=True):
        mean = 0.25 * mean + 0.75 * scores
        torch.testing.assert_close(result._scores.maps.full(), mean, atol=2e-5 * float(mean.abs().max()), rtol=0)


def test_a_frame_of_another_size_begins_anew(seg):
    scene, (first, second) = noisy(2)
    small = second.resize((second.width * 2 // 3, second.height // 2))
    found = list(seg.stream([first, small, small], scene.labels, smoothing=0.9))
    assert (found[1].label_map == seg(small, scene.labels).label_map).all()


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "0.5", True])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(SettingError, match="from 0 .* to below 1"):
        MovingMean(share)
