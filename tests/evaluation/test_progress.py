"""What a long run shows."""

import io

import numpy as np
import pytest
from rich.console import Console

from sclip_plugin.evaluation import IoUTotals
from sclip_plugin.evaluation import progress as module
from sclip_plugin.evaluation.progress import duration, shown_progress


@pytest.fixture
def totals():
    totals = IoUTotals(2)
    totals.add(np.array([[0, 1]]), np.array([[0, 0]]))
    return totals


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (40.4, "40 s"), (99.4, "99 s"), (100, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def shown(monkeypatch, terminal, **arguments):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    monkeypatch.setattr("rich.console.Console", lambda **options: console)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    return console.file, shown_progress("voc21-csa", **arguments)


def test_a_terminal_gets_a_bar_with_the_running_figure_and_the_time_left(monkeypatch, totals):
    text, bar = shown(monkeypatch, True)
    with bar as report:
        report(3, 10, totals)
    assert "voc21-csa" in text.getvalue() and "3/10" in text.getvalue()
    assert "mIoU 25.00" in text.getvalue() and "left:" in text.getvalue()


def test_a_file_gets_a_line_now_and_then(monkeypatch, totals):
    text, lines = shown(monkeypatch, False)
    with lines as report:
        report(3, 10, totals)
    assert text.getvalue() == "voc21-csa: 3 of 10, mIoU 25.00 0 s left\n"


def test_other_processes_are_quiet(monkeypatch, totals):
    text, nothing = shown(monkeypatch, True, quiet=True)
    with nothing as report:
        report(3, 10, totals)
    assert text.getvalue() == ""
