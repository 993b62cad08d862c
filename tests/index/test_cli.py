"""``sclip index`` and ``sclip search``, as they are typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sclip_plugin.cli.program import app
from sclip_plugin.errors import FileFormatError, SclipError, SettingError, UnknownNameError


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_folder_is_indexed_and_searched(photos, tmp_path, scenes):
    index, sheet = tmp_path / "index", photos / "found.png"
    word = scenes[0].labels[0]
    first = run("index", photos, "--out", index, "--model", "demo")
    assert first.exit_code == 0 and first.stdout == f"12 pictures -> {index}\n" and "12 of 12 pictures" in first.stderr
    (photos / "broken.jpg").write_bytes(b"")
    again = run("index", photos, "--out", index)  # its model and settings are the index's
    assert again.exit_code == 1 and "broken.jpg cannot be read" in again.stderr
    table = run("search", index, word, "--top", 3, "--out", sheet)
    assert table.exit_code == 0 and len(table.stdout.splitlines()) == 3
    assert table.stdout.splitlines()[0].endswith(f" {photos / '00.png'}") and " at " in table.stdout
    assert Image.open(sheet).width > 3 * 96
    assert run("index", photos, "--out", index, "-q").stdout == ""  # nor is the sheet a picture of the folder
    rows = run("search", index, f"{word}|thing", "--without", "road", "--under", "odd", "--json").stdout.splitlines()
    assert len(rows) == 6 and all(json.loads(row)["path"].startswith("odd/") for row in rows)
    assert set(json.loads(rows[0])) == {"path", "file", "score", "size", "scores", "presence", "null", "boxes"}
    assert len(run("search", index, word, "--by", "picture", "--json").stdout.splitlines()) == 12


def test_paths_lead_there_from_here_a_line_each(photos, tmp_path, monkeypatch, scenes):
    name = "new\nline.png"
    scenes[0].picture.save(photos / name)
    index = tmp_path / "index"
    assert run("index", photos, "--out", index, "--model", "demo").exit_code == 0
    monkeypatch.chdir(tmp_path)
    lines = run("search", index, "cat", "--top", 13).stdout.splitlines()
    paths = [Path(line.split(maxsplit=7)[-1]) for line in lines]
    assert len(lines) == 13 and sum(path.is_file() for path in paths) == 12
    assert [str(path) for path in paths if not path.is_file()] == ["photos/new\\nline.png"]
    rows = map(json.loads, run("search", index, "cat", "--top", 13, "--json").stdout.splitlines())
    assert all(Path(row["file"]).is_file() for row in rows)


def test_an_example_is_searched_by(photos, tmp_path, scenes, built):
    path = tmp_path / "example.png"
    scenes[7].picture.save(path)

    def found(*arguments):
        result = run("search", built.store.folder, *arguments, "--json")
        assert result.exit_code == 0, result.exception
        return [json.loads(line) for line in result.stdout.splitlines()]

    whole = found("--like", path)
    assert whole[0]["path"] == "odd/07.png" and whole[0]["score"] > 0.98
    row, column = np.argwhere(scenes[7].label_map == 0).mean(axis=0).astype(int)
    place = found("--like", f"{path}#{column},{row}")
    assert place[0]["path"] == "odd/07.png" and place[0]["score"] > 0.95
    both = found(scenes[7].labels[1], "--like", f"{path}#{column},{row}")
    assert set(both[0]["scores"]) == {scenes[7].labels[1], "like example.png"}
    assert "outside the picture" in str(run("search", built.store.folder, "--like", f"{path}#96,0").exception)
    assert "nothing to find" in str(run("search", built.store.folder).exception)


def test_pictures_that_are_gone_are_said_and_not_drawn(photos, tmp_path):
    index, sheet = tmp_path / "index", tmp_path / "found.png"
    run("index", photos, "--out", index, "--model", "demo")
    (photos / "00.png").unlink()
    some = run("search", index, "cat", "--top", 12, "--out", sheet)
    assert some.exit_code == 1 and "00.png" in some.stderr and sheet.is_file()
    sheet.unlink()
    photos.rename(tmp_path / "moved")
    none = run("search", index, "cat", "--out", sheet)
    assert none.exit_code == 1 and "where it is now" in none.stderr and not sheet.exists()
    assert run("index", tmp_path / "moved", "--out", index).exit_code == 0
    assert run("search", index, "cat", "--out", sheet).exit_code == 0
    for own in (sheet, tmp_path / "own.jpg"):
        own.write_bytes(b"somebody's own")
        assert "no result of sclip" in str(run("search", index, "cat", "--out", own).exception)
        assert own.read_bytes() == b"somebody's own"


@pytest.mark.parametrize(
    ("arguments", "option"), [((" , ",), "WORDS"), (("cat", "--without", ","), "--without"), (("@no.txt",), "no.txt")]
)
def test_errors_speak_of_this_commands_options(built, arguments, option):
    said = str(run("search", built.store.folder, *arguments).exception)
    assert option in said and "--labels" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"named": 3}, {"named": {"model": 3, "dtype": "float32", "settings": {}}}, {"root": 3}, {"near": []},
        {"named": {"model": "demo", "dtype": 3, "settings": {}}}, {"format": {}}, {"model": []},
        {"named": {"model": "demo", "dtype": "float32", "settings": {"method": 3}}},
        {"named": {"model": "demo", "dtype": "float32", "settings": [1]}},
        {"named": {"model": "demo", "dtype": "float32", "settings": {"nothing": 1}}},
    ],
)  # fmt: skip
def test_a_spoilt_head_ends_in_a_sentence(photos, tmp_path, change):
    index = tmp_path / "index"
    assert run("index", photos, "--out", index, "--model", "demo", "-q").exit_code == 0
    head = index / "index.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | change))
    asked = ("search", index, "--like", photos / "00.png"), ("index", photos, "--out", index)
    ends = [run(*arguments) for arguments in asked]
    assert any(isinstance(end.exception, SclipError) for end in ends)
    assert all(end.exit_code == 0 or isinstance(end.exception, SclipError | OSError | SystemExit) for end in ends)


def test_mistakes_are_said(photos, tmp_path, built):
    assert isinstance(run("search", photos, "cat").exception, FileFormatError)
    assert "picture format" in str(run("search", built.store.folder, "cat", "--out", "found.xyz").exception)
    new = ("index", photos, "--out", tmp_path / "new")
    assert isinstance(run(*new, "--model", "demo", "--set", "windows=3").exception, UnknownNameError)
    assert run(*new, "--model", "demo").exit_code == 0
    assert isinstance(run(*new, "--window", 64).exception, SettingError)


@pytest.mark.parametrize("command", ["index", "search"])
def test_help_is_there(command):
    assert "Example: sclip" in run(command, "--help").stdout
