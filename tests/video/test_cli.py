"""``sclip video``, as it is typed."""

import csv
import json
import shutil

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.cli.program import app
from sclip_plugin.demo import CLASSES
from sclip_plugin.draw.colours import colours_of
from sclip_plugin.errors import (
    FileFormatError,
    LabelError,
    MissingPackageError,
    PictureNotFoundError,
    SettingError,
    UnknownNameError,
)
from sclip_plugin.video import Video, segment_video
from sclip_plugin.video.writing import write_video

from .films import encoded


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_video_is_segmented(film, scenes, tmp_path, seg):
    labels = list(dict.fromkeys(label for scene in scenes for label in scene.labels))
    out = tmp_path / "out"
    said = run(
        "video", film, "-l", ",".join(labels), "--fps", 0.5, "-o", out, "-m", "demo", "--method", "naclip",
        "--templates", "plain", "--set", "std=4.0",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith(f"{film}: 4 frames, ") and said.stdout.endswith("film.overlay.mp4\n")
    assert sorted(path.name for path in out.iterdir()) == ["film.labels.csv", "film.overlay.mp4"]
    rows = table(out / "film.labels.csv")
    assert len(rows) == 4 * len(labels)
    found = list(segment_video(seg, film, labels, fps=0.5, method="naclip", std=4.0))
    for row, (i, label) in zip(rows, [(i, label) for i in range(4) for label in labels], strict=True):
        frame, result = found[i]
        assert (float(row["time"]), int(row["frame"]), row["label"]) == (frame.time, frame.index, label)
        assert labels.index(label) == int(row["index"])
        assert float(row["share"]) == pytest.approx(result.areas()[label], abs=2e-4)
        score = result.mean_scores().get(label)
        assert (row["score"] == "") == (score is None) and float(row["score"] or 0) == pytest.approx(
            score or 0, abs=2e-3
        )


def test_a_video_is_segmented_by_what_is_found_in_it(film, scenes, tmp_path):
    (tmp_path / "own.txt").write_text("\n".join(CLASSES))
    auto, out = f"@auto:{tmp_path / 'own.txt'}", tmp_path / "out"
    said = run("video", film, "-l", f"{auto}, zebra", "--fps", 0.5, "-o", out, "-m", "demo")
    assert said.exit_code == 0, said.output
    rows = table(out / "film.labels.csv")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    there = {label for scene in scenes for label in scene.labels}
    assert labels[0] == "zebra" and there <= set(labels[1:]) and len(labels) <= len(there) + 2
    assert len(rows) == 4 * len(labels), "each is asked for in each frame"
    assert not any(float(row["share"]) for row in rows if row["label"] == "zebra")
    (tmp_path / "other.txt").write_text("zzz qqq\nxxx kkk")
    refused = run("video", film, "-l", f"@auto:{tmp_path / 'other.txt'}", "-o", tmp_path / "none", "-m", "demo")
    assert isinstance(refused.exception, LabelError) and "no word of the list" in str(refused.exception)


def test_nothing_of_another_film_or_of_somebody_else_is_replaced(film, scenes, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other" / "film.mkv"
    other.parent.mkdir()
    encoded(other, [scenes[0].picture] * 2, 1)
    short = ("--fps", 0.2, "-o", out, "-m", "demo", "--templates", "plain")
    for what in (("-l", "cat,sky"), ("--search", "cat")):
        assert run("video", film, *what, *short).exit_code == 0
        assert run("video", film, *what, *short).exit_code == 0  # its own
        before = {path: path.read_bytes() for path in out.iterdir()}
        refused = run("video", other, *what, *short).exception
        assert isinstance(refused, SettingError) and "is of film.mp4" in str(refused)
        for path in before:
            path.write_bytes(b"mine")
            refused = run("video", film, *what, *short).exception
            ours = path.name.startswith("film.labels" if "-l" in what else "film.search")
            assert isinstance(refused, SettingError) or not ours
            path.write_bytes(before[path])
    encoded(tmp_path / "out" / "film.overlay.mp4", [scenes[0].picture] * 2, 1)
    refused = run("video", film, "-l", "cat,sky", *short).exception
    assert isinstance(refused, SettingError) and "no result of this program" in str(refused)


def test_the_overlay_plays_as_long_as_the_film(film, scenes, tmp_path):
    labels = ["sky", *scenes[0].labels]
    labels = list(dict.fromkeys(labels))
    for fps, count in ((0.5, 4), (2.5, 20)):
        assert (
            run("video", film, "-l", ",".join(labels), "--fps", fps, "-o", tmp_path, "-m", "demo", "-q").exit_code == 0
        )
        with av.open(str(tmp_path / "film.overlay.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == pytest.approx(fps)
            assert float(stream.duration * stream.time_base) == pytest.approx(8.0)
            frames = list(container.decode(stream))
        assert len(frames) == count
    width, height = frames[0].width, frames[0].height
    assert width % 2 == height % 2 == 0 and width >= 256 and height > 192, "twice as large, with room for a legend"
    shown = np.asarray(frames[0].to_image(), int)
    for colour in colours_of(labels):
        assert (np.abs(shown[192:] - colour).max(axis=2) < 30).sum() > 20, "each label has its colour in the legend"
    assert (shown[192:, :3] > 230).all(), "nothing of the picture is below its room"


def test_a_video_is_searched(film, scenes, tmp_path):
    others = {label for scene in scenes[:2] + scenes[3:] for label in scene.labels}
    word, second = (label for label in scenes[2].labels if label not in others or label in scenes[2].labels[:2])
    said = run("video", film, "--search", word, "--fps", 2, "-o", tmp_path, "-m", "demo")
    assert said.exit_code == 0, said.output
    first, last = said.stdout.splitlines()
    assert " 4.0 to 6.0 s, best at " in first and last.startswith(f"{film}: 16 frames, 1 moment ")
    rows = table(tmp_path / "film.search.csv")
    assert [row["time"] for row in rows if row["moment"] == "1"] == ["4.000", "4.500", "5.000", "5.500"]
    assert len(rows) == 16 and {row["word"] for row in rows} == {word}
    assert float(rows[8]["score"]) > max(float(row["score"]) for row in rows[:8])
    assert 0 <= int(rows[8]["left"]) < int(rows[8]["right"]) <= 128
    frames = list(Video(tmp_path / "film.search.mp4").frames(2))
    assert len(frames) == 16
    drawn = [np.asarray(frame.picture, float)[:192, :256] for frame in frames]
    plain = [np.asarray(frame.picture.resize((256, 192)), float) for frame in Video(film).frames(2)]
    changed = [np.abs(a - b).mean() > 20 for a, b in zip(drawn, plain, strict=True)]
    assert changed == [row["moment"] == "1" for row in rows], "places are shown in moments, and there alone"
    said = run("video", film, "--search", f"{word},{second}", "--json", "-o", tmp_path, "-m", "demo").stdout
    moment, *_, done = map(json.loads, said.splitlines())
    assert moment["rank"] == 1 and set(moment["scores"]) == set(moment["boxes"]) == {word, second}
    assert moment["score"] == min(moment["scores"].values()) and moment["start"] == 4.0
    assert done["frames"] == 8 and done["files"]["table"] == str(tmp_path / "film.search.csv")


def test_json_and_quiet(film, tmp_path):
    said = run("video", film, "-l", "cat,grass", "--fps", 0.5, "--json", "-o", tmp_path, "-m", "demo")
    *frames, done = map(json.loads, said.stdout.splitlines())
    assert [frame["time"] for frame in frames] == [0, 2, 4, 6] and done["status"] == "done" and done["frames"] == 4
    assert [entry["label"] for entry in frames[0]["labels"]] == ["cat", "grass"]
    quiet = run("video", film, "-l", "cat,grass", "--fps", 0.5, "-q", "-o", tmp_path, "-m", "demo")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_smoothing_is_off_unless_asked_for(film, tmp_path):
    def rows(*more):
        run("video", film, "-l", "cat,grass,sky", "-o", tmp_path, "-m", "demo", *more)
        return table(tmp_path / "film.labels.csv")

    plain = rows()
    assert rows("--smoothing", 0) == plain and rows("--smoothing", 0.5) != plain


def test_of_a_broken_film_what_was_read_is_kept(scenes, tmp_path):
    broken = tmp_path / "broken.mkv"
    encoded(broken, [scene.picture for scene in scenes for _ in range(10)], 5)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    said = run("video", broken, "-l", "cat,grass", "-o", tmp_path / "out", "-m", "demo")
    assert said.exit_code == 1 and "it ends at" in said.stderr and "were kept" in said.stderr
    count = len(table(tmp_path / "out" / "broken.labels.csv")) // 2
    assert 1 < count < 8 and len(list(Video(tmp_path / "out" / "broken.overlay.mp4").frames(1))) == count


def test_one_that_was_stopped_leaves_what_was_there(film, tmp_path, monkeypatch):
    assert run("video", film, "-l", "cat", "--fps", 0.5, "-o", tmp_path, "-m", "demo").exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    from sclip_plugin.video import writing

    add, added = writing.VideoWriter.add, []

    def full(self, picture):
        add(self, picture)
        added.append(1)
        if len(added) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.VideoWriter, "add", full)
    said = run("video", film, "-l", "grass", "-o", tmp_path, "-m", "demo")
    assert isinstance(said.exception, OSError)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([], SettingError, "neither --labels nor --search"),
        (["-l", "cat", "--search", "dog"], SettingError, "both given"),
        (["-l", "cat", "--fps", "0"], SettingError, "fps=0.0"),
        (["-l", "cat", "--fps", "-1"], SettingError, "above 0"),
        (["-l", "cat", "--smoothing", "1"], SettingError, "below 1"),
        (["--search", "cat", "--smoothing", "0.5"], SettingError, "--smoothing is about --labels"),
        (["--search", "cat", "--refine"], SettingError, "--refine is about --labels"),
        (["-l", "cat", "--set", "windwo=3"], UnknownNameError, "Did you mean 'window'"),
    ],
)
def test_what_is_wrong_is_said_first(film, tmp_path, monkeypatch, arguments, error, words):
    from sclip_plugin.cli import video

    monkeypatch.setattr(video, "make_segmenter", lambda *_, **__: pytest.fail("a model was loaded"))
    said = run("video", film, *arguments, "-o", tmp_path / "out")
    assert isinstance(said.exception, error) and words in str(said.exception)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_video_are_said_first(tmp_path, monkeypatch):
    from sclip_plugin.cli import video

    monkeypatch.setattr(video, "make_segmenter", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "notes.txt").write_text("none")
    assert isinstance(run("video", tmp_path / "notes.txt", "-l", "cat").exception, FileFormatError)
    assert isinstance(run("video", tmp_path / "no.mp4", "-l", "cat").exception, PictureNotFoundError)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    missing = run("video", tmp_path / "notes.txt", "-l", "cat").exception
    assert isinstance(missing, MissingPackageError) and "sclip_plugin[video]" in str(missing)


def test_a_film_of_odd_sides(tmp_path):
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 301, 203, "bgr0"
        for value in (0, 200):
            frame = av.VideoFrame.from_image(Image.new("RGB", (301, 203), (value, 255 - value, 90)))
            out.mux(stream.encode(frame.reformat(format="bgr0")))
        out.mux(stream.encode(None))
    assert run("video", path, "-l", "cat,sofa", "-o", tmp_path, "-m", "demo", "--style", "outline").exit_code == 0
    shown = next(Video(tmp_path / "odd.overlay.mp4").frames()).picture
    assert shown.width % 2 == shown.height % 2 == 0 and 301 <= shown.width and 203 <= shown.height
    assert np.abs(np.asarray(shown, int)[100, 280] - (0, 255, 90)).max() < 12 and shown.getpixel((150, 190))[1] > 200


def test_the_film_itself_is_not_touched(tmp_path, corner):
    """Not even where the results go into its folder."""
    path = tmp_path / "film.mp4"
    with write_video(path, 1) as out:
        out.add(corner)
    before = path.read_bytes()
    assert run("video", path, "-l", "cat", "-o", tmp_path, "-m", "demo").exit_code == 0
    assert path.read_bytes() == before and (tmp_path / "film.overlay.mp4").exists()


def test_help_is_there():
    assert "Example: sclip video" in run("video", "--help").stdout


def test_a_film_teaches_its_own_null_and_hits_say_what_is_not_there(film, tmp_path):
    shutil.copytree(sp.demo_model(), tmp_path / "model")
    (tmp_path / "model" / "presence.safetensors").unlink()
    asked = ["video", film, "--fps", 1, "-o", tmp_path / "out", "-m", tmp_path / "model"]
    said = run(*asked, "-l", "zebra, grass", "--present", "yes")
    null = tmp_path / "out" / "film.presence.safetensors"
    assert said.exit_code == 0, said.output
    assert f"learned from 8 pictures, since the model came without; kept in {null}" in said.stderr
    rows = [row for row in table(tmp_path / "out" / "film.labels.csv") if row["label"] == "zebra"]
    assert len(rows) == 8 and all(float(row["presence"]) < 0.5 and float(row["share"]) == 0 for row in rows)
    assert run(*asked, "-l", "zebra, grass", "--present", null).stdout == said.stdout
    few = run("video", film, "--fps", 0.5, "-o", tmp_path, "-m", tmp_path / "model", "-l", "zebra", "--present", "yes")
    assert few.exit_code != 0 and "given 4 pictures" in str(few.exception)
    found = run(*asked, "--search", "zebra")
    assert "not there" in found.stdout and "nothing like it was found" in found.stderr
    assert all(float(row["presence"]) < 0.5 for row in table(tmp_path / "out" / "film.search.csv"))
