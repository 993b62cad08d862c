"""``sclip index`` and ``sclip search``, as they are typed."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from sclip_plugin.cli.program import app
from sclip_plugin.errors import FileFormatError, SettingError, UnknownNameError


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
    assert table.stdout.splitlines()[0].endswith(" 00.png") and " at " in table.stdout
    assert Image.open(sheet).width > 3 * 96
    assert run("index", photos, "--out", index, "-q").stdout == ""  # nor is the sheet a picture of the folder
    rows = run("search", index, f"{word}|thing", "--without", "road", "--under", "odd", "--json").stdout.splitlines()
    assert len(rows) == 6 and all(json.loads(row)["path"].startswith("odd/") for row in rows)
    assert set(json.loads(rows[0])) == {"path", "score", "size", "scores", "boxes"}
    assert len(run("search", index, word, "--by", "picture", "--json").stdout.splitlines()) == 12


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
