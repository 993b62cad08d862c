"""How commands behave around what they do: help, interrupts, completion."""

from __future__ import annotations

import re
import sys

import pytest
import typer
from typer.testing import CliRunner

from sclip_plugin.cli import program

COMMANDS = ("segment", "label", "anomaly", "compare", "geotiff", "index", "search", "video", "serve", "app", "eval")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_breaks_lines_where_the_terminal_ends(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    said = CliRunner().invoke(program.app, [command, "--help"]).output
    text = re.split(r"\n\s*\n", said.split("╭")[0])
    paragraphs = [[line.strip() for line in part.split("\n") if line.strip()] for part in text]
    for lines in paragraphs:
        for line, following in zip(lines, lines[1:], strict=False):
            assert len(line) + 1 + len(following.split()[0]) > 78, f"{line!r} ends early"
    assert all(len(line) <= 80 for line in said.split("\n"))


@pytest.mark.parametrize("command", ["segment", "video", "geotiff"])
def test_options_stand_in_groups(command):
    said = CliRunner().invoke(program.app, [command, "--help"]).output
    for group in ("Looking at pictures", "Words", "Answering", "Model", "Output"):
        assert group in said


def test_an_interrupt_says_what_was_kept(monkeypatch, capsys, tmp_path):
    def interrupted(*values, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sclip_plugin.cli.index.make_segmenter", interrupted)
    monkeypatch.setattr(sys, "argv", ["sclip", "index", str(tmp_path), "--out", str(tmp_path / "i"), "-m", "demo"])
    with pytest.raises(SystemExit) as stop:
        program.run()
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "stopped; finished pictures are in the index; the same command goes on."


def test_every_line_on_interrupts_is_of_a_command():
    def names(part: typer.Typer) -> set[str]:
        own = {info.callback.__name__ for info in part.registered_commands if info.callback}
        return own.union(*(names(group.typer_instance) for group in part.registered_groups))

    assert set(program.KEPT) <= names(program.app)


def test_the_shell_can_complete():
    assert "--install-completion" in CliRunner().invoke(program.app, ["--help"]).output
