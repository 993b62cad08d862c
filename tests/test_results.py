"""Results on disk are what they say: of the picture and settings that their JSON names, whole, and never an input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
from PIL import Image

from sclip_plugin.cli import program as cli
from sclip_plugin.cli.pictures import NamedPicture, find_pictures, with_stems
from sclip_plugin.errors import PictureError
from sclip_plugin.segment.results import file_names, is_result
from sclip_plugin.storage.files import atomic_path, check_writable, sweep


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(golden.save_folder(tmp_path_factory.mktemp("golden-clip")))


@pytest.fixture
def sclip(monkeypatch, capsys, tmp_path, model):
    """Segments with a tiny model, and gives the exit code and what was written to standard output and error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, labels="cat,dog"):
        fixed = ["-l", labels, "-m", model, "--templates", "plain"]
        monkeypatch.setattr(sys, "argv", ["sclip", "segment", *map(str, arguments), *fixed])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


class TestWhatLiesThere:
    """Files that this program did not write are not replaced."""

    @pytest.mark.parametrize("name", ["a.json", "a.overlay.png", "a.labels.png"])
    def test_somebody_elses_file_stays(self, sclip, tmp_path, name):
        draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)
        path = tmp_path / "out" / name
        path.parent.mkdir()
        path.write_bytes(b"{}") if name.endswith("json") else draw(path)
        before = path.read_bytes()
        code, _, said = sclip("a.png", "b.png", "-o", "out")
        assert code == 1 and f"{Path('out', name)} would be replaced" in said and path.read_bytes() == before
        assert (tmp_path / "out/b.json").is_file() and sorted(tmp_path.glob("out/a.*")) == [path]

    def test_an_old_picture_of_somebody_else_is_not_removed(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        other = draw(tmp_path / "out/a.overlay.jpg")
        assert sclip("a.png", "-o", "out")[0] == 0 and other.is_file()

    def test_the_result_of_another_picture_is_named(self, sclip, tmp_path):
        draw(tmp_path / "x/a.png", 0), draw(tmp_path / "y/a.png", 1)
        assert "warning" not in sclip("x/a.png", "-o", "out")[2]
        assert "a.json is of x/a.png, and is replaced" in sclip("y/a.png", "-o", "out")[2]
        assert "warning" not in sclip("y/a.png", "-o", "out")[2]


class TestResume:
    def test_a_picture_replaced_under_its_name_is_done_again(self, sclip, tmp_path):
        draw(tmp_path / "a.png", 0)
        sclip("a.png", "-o", "out")
        assert "1 skipped" in sclip("a.png", "-o", "out", "--resume")[2]
        draw(tmp_path / "a.png", 1)
        assert "a.overlay.png" in sclip("a.png", "-o", "out", "--resume")[1]

    def test_the_same_stem_of_another_folder_is_not_taken_for_it(self, sclip, tmp_path):
        draw(tmp_path / "a/x.png", 0), draw(tmp_path / "b/x.png", 1)
        sclip("a", "b", "-o", "out")
        before = content(tmp_path / "out")
        assert "2 done, 0 skipped" in sclip("b", "a", "-o", "out", "--resume")[2]
        after = content(tmp_path / "out")
        one, two = "x.png.labels.png", "x.png.2.labels.png"
        assert before[one] != before[two] and (after[one], after[two]) == (before[two], before[one])
        assert "0 done, 2 skipped" in sclip("b", "a", "-o", "out", "--resume")[2]

    @pytest.mark.parametrize("file", ["a.overlay.png", "a.labels.png", "a.json", "a.heatmap.1-dog.png"])
    def test_what_was_deleted_is_made_again(self, sclip, tmp_path, file):
        draw(tmp_path / "a.png")
        sclip("a.png", "-o", "out", "--heatmaps")
        before = content(tmp_path / "out")
        (tmp_path / "out" / file).unlink()
        sclip("a.png", "-o", "out", "--heatmaps", "--resume")
        assert content(tmp_path / "out") == before

    def test_heat_maps_asked_for_later_are_made(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        sclip("a.png", "-o", "out")
        sclip("a.png", "-o", "out", "--heatmaps", "--resume")
        assert (tmp_path / "out/a.heatmap.0-cat.png").exists()
        assert "1 skipped" in sclip("a.png", "-o", "out", "--resume")[2]  # more than is asked for is whole, too

    def test_heat_maps_of_other_labels_do_not_stay(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        sclip("a.png", "-o", "out", "--heatmaps", labels="cat,dog,tree")
        sclip("a.png", "-o", "out", "--heatmaps", labels="cow,cat")
        assert set(content(tmp_path / "out")) == {
            *("a.json", "a.labels.png", "a.overlay.png", "a.heatmap.0-cow.png", "a.heatmap.1-cat.png")
        }

    def test_the_json_says_what_belongs_to_it(self, sclip, tmp_path):
        path = draw(tmp_path / "a.png")
        sclip("./a.png", "-o", "out", "--heatmaps")
        report = json.loads((tmp_path / "out/a.json").read_text())
        assert report["source"]["path"] == "a.png" and report["source"]["bytes"] == path.stat().st_size
        assert report["files"]["heatmap.dog"] == "a.heatmap.1-dog.png"
        assert {*report["files"].values(), "a.json"} == set(content(tmp_path / "out"))

    def test_the_old_json_goes_before_the_first_new_picture_comes(self, sclip, tmp_path, monkeypatch):
        draw(tmp_path / "a.png")
        sclip("a.png", "-o", "out", labels="cat,dog")
        seen = []
        replace = os.replace

        def watched(source, target):
            if Path(target).suffix == ".png":
                seen.append((tmp_path / "out/a.json").exists())
            replace(source, target)

        monkeypatch.setattr(os, "replace", watched)
        sclip("a.png", "-o", "out", labels="cow")
        assert seen == [False, False]

    def test_a_result_that_cannot_be_written_leaves_the_old_one(self, sclip, tmp_path, monkeypatch):
        draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
        sclip("a.png", "b.png", "-o", "out")
        before = content(tmp_path / "out")

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        code, _, said = sclip("a.png", "b.png", "-o", "out", labels="cow")
        assert code == 1 and "No space left" in said and "2 of 2 left" in said and "--resume" in said
        assert content(tmp_path / "out") == before


class TestHowPicturesAreDrawn:
    def test_another_way_is_another_result(self, sclip, tmp_path):
        draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)
        (tmp_path / "colours.yaml").write_text("cat: red")
        ways = [(), ("--style", "outline"), ("--colors", "colours.yaml"), ("--min-area", "900"), ("--stretch",)]
        seen = set()
        for way in ways:
            assert "2 done" in sclip("a.png", "b.png", "-o", "out", "--resume", "--heatmaps", *way)[2]
            seen.add(b"".join(content(tmp_path / "out")[f"a.{kind}.png"] for kind in ("overlay", "heatmap.0-cat")))
            assert "2 skipped" in sclip("a.png", "b.png", "-o", "out", "--resume", "--heatmaps", *way)[2]
        assert len(seen) == len(ways)

    def test_pictures_of_another_format_are_no_input(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        for picture_format in ("jpg", "webp", "png"):
            code, printed, said = sclip(".", "-o", ".", "--picture-format", picture_format, "--heatmaps")
            assert code == 0 and len(printed.splitlines()) == 1, said
            suffixes = {path.suffix for path in tmp_path.glob("a.overlay.*")}
            assert suffixes == {f".{picture_format}"}

    def test_colours_that_are_none_are_said_before_a_model_is_read(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        (tmp_path / "colours.yaml").write_text("cat: rot")
        code, printed, said = sclip("a.png", "-o", "out", "--colors", "colours.yaml", "-m", "no-such-model")
        assert code == 2 and "'rot' is no colour" in said


class TestOwnResultsAreNoInput:
    @pytest.mark.parametrize("out", ["out", ".", "photos/deep/out"])
    def test_a_second_run_sees_the_same_pictures(self, sclip, tmp_path, out):
        draw(tmp_path / "photos/a.png"), draw(tmp_path / "photos/deep/b.png", 1)
        for _ in range(3):
            code, printed, said = sclip(".", "-o", out, "--heatmaps")
            assert code == 0 and "2 done" in said and len(printed.splitlines()) == 2, said

    def test_pictures_in_the_output_folder_are_left_out_and_said(self, sclip, tmp_path):
        draw(tmp_path / "photos/a.png"), draw(tmp_path / "b.png")
        code, printed, said = sclip(".", "-o", "photos")
        assert code == 0 and len(printed.splitlines()) == 1 and "1 in the folder for results" in said

    def test_a_pattern_leaves_them_out_and_says_so(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        sclip("a.png", "-o", ".")
        code, printed, said = sclip("*.png", "-o", ".")
        assert code == 0 and len(printed.splitlines()) == 1 and "2 results of earlier runs" in said

    def test_a_comparison_is_one(self, sclip, tmp_path, monkeypatch, model):
        draw(tmp_path / "a.png")
        command = ["sclip", "compare", "a.png", "-l", "cat", "--methods", "csa", "-m", model]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            cli.run()
        assert is_result(tmp_path / "compare.png") and not is_result(tmp_path / "a.png")

    def test_hidden_files_and_those_of_macos_are_none(self, tmp_path):
        draw(tmp_path / "a.jpg")
        (tmp_path / "._a.jpg").write_bytes(b"resource fork")
        draw(tmp_path / ".hidden/b.jpg")
        assert [p.relative.name for p in find_pictures([str(tmp_path)]).pictures] == ["a.jpg"]


def test_what_is_not_looked_at_is_said_by_kind(sclip, tmp_path):
    draw(tmp_path / "photos/a.jfif.png")
    for name in ("notes.txt", "more.txt", "clip.mp4", "README"):
        (tmp_path / "photos" / name).write_text("x")
    said = sclip("photos", "-o", "out")[2]
    assert "not looked at: 2 .txt, 1 .mp4, 1 without a suffix" in said or "2 .txt" in said and "1 .mp4" in said


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jpe", ".tga", ".pgm"])
def test_kinds_that_pillow_reads_are_found(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert len(find_pictures([str(tmp_path)]).pictures) == 1


class TestStems:
    @pytest.mark.parametrize(
        "names",
        [
            ["x.png", "X.jpg"],
            ["a/x.png", "b/x.png", "x.2.png"],
            ["x.2.png", "a/x.png", "b/x.png"],
            ["caf\u00e9.png", "cafe\u0301.png"],
            ["long" * 60 + ".png", "long" * 60 + "er.png"],
            ["\U0001f408" * 60 + ".png", "\U0001f408" * 60 + ".jpg"],
        ],
    )
    def test_no_two_results_have_one_name(self, names):
        pictures = [NamedPicture(name, Path(name).__class__(Path(name).name)) for name in names]
        stems = [stem for _, stem in with_stems(pictures)]
        import unicodedata

        assert len({unicodedata.normalize("NFC", stem).casefold() for stem in stems}) == len(names)
        for stem in stems:
            for name in file_names(stem, ["\u0915\u094d\u0937" * 99], heatmaps=True).values():
                assert len(name.encode()) <= 255

    def test_heat_maps_have_names_of_their_own(self):
        labels = [
            "a/b",
            "a:b",
            "A/B",
            "\U0001f408",
            "\U0001f415",
            "\U0001f408\u200d\u2b1b",
            "x" * 400,
            "../../up",
            "कि",
            "की",
        ]
        names = list(file_names("p", labels, heatmaps=True).values())
        assert len({name.casefold() for name in names}) == len(labels) + 2
        assert all(len(name.encode()) < 120 and "/" not in name and ":" not in name for name in names)
        assert names[-1] == "p.heatmap.9-की.png"  # its marks are kept


class TestFolders:
    def test_an_output_folder_that_cannot_be_is_said_before_a_model_is_read(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        (tmp_path / "file").write_text("x")
        code, printed, said = sclip("a.png", "-o", "file", "-m", "no-such-model")
        assert code == 2 and not printed and "file" in said and "can't write" in said

    def test_looking_leaves_nothing(self, tmp_path):
        check_writable(tmp_path / "new/deep")
        assert list(tmp_path.iterdir()) == []

    def test_what_the_killed_left_behind_is_swept(self, tmp_path):
        code = (
            "import os, sys, time\nfrom sclip_plugin.storage.files import atomic_path\n"
            "with atomic_path(sys.argv[1]) as lent:\n    lent.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=False)
        mine = tmp_path / ".mine-0123456789abcdef0123456789abcdef.png"
        mine.write_text("a hidden file of somebody's own")
        assert len(list(tmp_path.iterdir())) == 2
        with atomic_path(tmp_path / "b.png") as lent:
            lent.write_bytes(b"being written")
            assert sweep(tmp_path) == 1
            assert lent.exists()
        assert sorted(p.name for p in tmp_path.iterdir()) == [mine.name, "b.png"]


class TestWhatIsPrinted:
    def test_escapes_in_names_are_written_out(self, sclip, tmp_path):
        draw(tmp_path / "a\x1b[31m.png")
        code, printed, said = sclip(
            "a\x1b[31m.png", "no\x1b]0;title\x07.png", "-o", "out", labels="cat\x1b[2J,d\u202eog"
        )
        assert code == 1
        assert "\x1b" not in printed + said and "\u202e" not in printed + said
        assert r"a\x1b[31m.png" in printed and r"no\x1b]0;title\x07.png" in said

    def test_a_line_of_json_for_each_picture(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        (tmp_path / "bad.png").write_bytes(b"\x89PNG")
        code, printed, _ = sclip("a.png", "bad.png", "-o", "out", "--json")
        done, failed = map(json.loads, printed.splitlines())
        assert code == 1 and done["status"] == "done" and failed["status"] == "failed" and "bad.png" in failed["error"]
        assert [entry["label"] for entry in done["labels"]] == ["cat", "dog"]
        assert Path(done["files"]["overlay"]).is_file()

    def test_quiet_is_quiet_but_for_failures(self, sclip, tmp_path):
        draw(tmp_path / "a.png")
        code, printed, said = sclip("a.png", "no.png", "-o", "out", "--quiet")
        assert code == 1 and printed == "" and said == "failed: no such picture: no.png\n"

    def test_names_come_from_standard_input(self, sclip, tmp_path, monkeypatch):
        import io

        draw(tmp_path / "a b.png"), draw(tmp_path / "c.png")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b.png\r\nc.png\n\n")))
        assert "2 done" in sclip("-", "-o", "out")[2]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b.png\0c.png\0")))
        assert "2 done" in sclip("-", "-o", "out")[2]

    def test_being_stopped_says_how_to_go_on(self, sclip, tmp_path, monkeypatch):
        draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)
        monkeypatch.setattr("sclip_plugin.imaging.pictures.read_picture", _interrupted_at(2))
        code, printed, said = sclip("a.png", "b.png", "-o", "out")
        assert code == 130 and "1 of 2 left" in said and "--resume" in said and "a.png" in printed
        monkeypatch.undo()


def _interrupted_at(count: int):
    from sclip_plugin.imaging.pictures import read_picture

    calls = []

    def read(*arguments, **options):
        calls.append(arguments)
        if len(calls) == count:
            raise KeyboardInterrupt
        return read_picture(*arguments, **options)

    return read


def test_a_background_beside_the_added_one_is_said_at_once(sclip, tmp_path):
    draw(tmp_path / "a.png")
    code, _, said = sclip("a.png", "-o", "out", "--background", labels="cat,background")
    assert code == 2 and "background" in said and "twice" in said


def test_an_empty_name_is_no_folder():
    with pytest.raises(PictureError, match="empty name"):
        find_pictures([""])


def test_a_url_is_fetched(sclip, tmp_path):
    import functools
    import http.server
    import threading

    draw(tmp_path / "web/a b.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        code, _, said = sclip(f"{url}/a%20b.png", f"{url}/none.png", "-o", "out")
    finally:
        server.shutdown()
    assert code == 1 and "1 done" in said and "none.png cannot be fetched: HTTP Error 404" in said
    assert json.loads((tmp_path / "out/a b.json").read_text())["source"]["path"] == f"{url}/a%20b.png"
