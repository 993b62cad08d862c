"""Search in a video: moments in which words are seen, with the scores and places that an index gives."""

import numpy as np
import pytest

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, SettingError
from sclip_plugin.index.results import Hit
from sclip_plugin.video import Video
from sclip_plugin.video.searching import Seen, moments, search_frames
from sclip_plugin.video.writing import write_video


def alone(scenes, which):
    """A word of a scene that no other has."""
    others = {label for i, scene in enumerate(scenes) if i != which for label in scene.labels}
    return next(label for label in scenes[which].labels if label not in others)


@pytest.mark.parametrize("which", range(4))
def test_the_second_in_which_a_thing_appears_is_found(seg, film, scenes, which):
    word = alone(scenes, which)
    found = sp.search_video(seg, film, word, fps=2)
    assert (found[0].start, found[0].end) == (2.0 * which, 2.0 * which + 2) and len(found) == 1
    best = found[0]
    assert best.start <= best.time < best.end and best.index == round(best.time * 5)
    left, top, right, bottom = best.hit.box
    truth = scenes[which].label_map == scenes[which].labels.index(word)
    assert truth[top:bottom, left:right].sum() > 0.5 * truth.sum(), "where it is"


def test_frames_answer_as_pictures_of_an_index(seg, film, tmp_path):
    frames = list(Video(film).frames(0.5))
    for frame in frames:
        (tmp_path / "photos").mkdir(exist_ok=True)
        frame.picture.save(tmp_path / "photos" / f"{frame.index:02}.png")
    index = sp.Index.build(seg, tmp_path / "photos", tmp_path / "index")
    words = [["cat", "kitten"], "grass"]
    hits = {hit.path: hit for hit in index.search(words)}
    for seen in search_frames(seg, film, words, fps=0.5):
        hit = hits[f"{seen.index:02}.png"]
        assert seen.hit.score == pytest.approx(hit.score, abs=1e-6) and seen.hit.scores == pytest.approx(hit.scores)
        assert seen.hit.boxes == hit.boxes and seen.hit.size == hit.size


def test_by_example(seg, film, scenes):
    word = alone(scenes, 1)
    mask = scenes[1].label_map == scenes[1].labels.index(word)
    found = sp.search_video(seg, film, {"this": seg.vector_of(scenes[1].picture, mask)})
    assert found[0].start == 2.0 and set(found[0].hit.scores) == {"this"}


def seen(scores, fps=1):
    grid, cells = np.zeros((2, 2), np.uint8), np.ones((1, 1), np.float32)
    return [Seen(i / fps, i, Hit("f", None, s, {"x": s}, (8, 8), grid, cells)) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.5, 0.4, 0.1, 0.45, 0.1], [(1, 3, 1), (4, 5, 4)]),
        ([0.4, 0.1, 0.1, 0.5], [(3, 4, 3), (0, 1, 0)]),
        ([0.2], [(0, 1, 0)]),
        ([0.2, 0.2], [(0, 2, 0)]),
    ],
)
def test_moments_are_stretches_above_three_quarters(scores, expected):
    for fps in (1, 3, 0.1):
        found = moments(seen(scores, fps), fps)
        got = np.array([(m.start * fps, m.end * fps, m.index) for m in found])
        np.testing.assert_allclose(got, expected)
        assert [m.time * fps for m in found] == pytest.approx([m.index for m in found])
    assert found[0].to_dict().keys() == {
        "start",
        "end",
        "time",
        "frame",
        "score",
        "size",
        "scores",
        "presence",
        "null",
        "boxes",
    }


def test_mistakes_are_said(seg, film):
    with pytest.raises(LabelError):
        sp.search_video(seg, film, [])
    with pytest.raises(SettingError, match="fps"):
        sp.search_video(seg, film, "cat", fps=-2)


def test_frames_say_whether_words_are_there(seg, tmp_path):
    scenes = [sp.draw_scene(1_000_000_300 + index, size=(128, 96)) for index in range(12)]
    with write_video(tmp_path / "film.mp4", 1) as film:
        for scene in scenes:
            film.add(scene.picture)
    words = sorted({label for scene in scenes for label in scene.labels})
    seen = list(search_frames(seg, tmp_path / "film.mp4", [*words]))
    called = [{word for word, number in each.hit.presence.items() if number >= 0.5} for each in seen]
    right = sum(len(found & set(scene.labels)) for found, scene in zip(called, scenes, strict=True))
    there = sum(len(scene.labels) for scene in scenes)
    assert right / there > 0.9 and right / sum(map(len, called)) > 0.8
    assert seen[0].hit.null.pictures == 12 and seen[0].hit.to_dict()["null"]["pictures"] == 12
    best = sp.search_video(seg, tmp_path / "film.mp4", "zebra")[0]
    assert not best.hit.is_there and best.hit.presence["zebra"] < 0.5
    again = [each.hit.presence for each in search_frames(seg, tmp_path / "film.mp4", [*words])]
    assert again == [each.hit.presence for each in seen]


def test_a_short_film_has_no_presence(seg, film):
    found = sp.search_video(seg, film, "zebra", fps=0.5)[0].hit
    assert found.presence is None and found.is_there
    vector = seg.vector_of(next(Video(film).frames()).picture, np.eye(96, 128, dtype=bool))
    assert sp.search_video(seg, film, {"this": vector}, fps=1)[0].hit.presence == {}
