"""What a long run shows while it runs: a bar with the running mIoU and the time left, or lines where no one watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .metric import IoUTotals

_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def shown_progress(what: str, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A function to call as ``report(done, of, totals)``; ``totals`` may be left out where there is no figure yet.

    On a terminal a bar is drawn; into a file or a pipe goes a line now and then.

    Args:
        what: the words in front.
        quiet: show nothing, as processes other than the first do.
    """
    if quiet:
        yield lambda *progress: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, console).report
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figure]}")),
        *(TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, figure="")

        def report(done: int, of: int, totals: IoUTotals | None = None) -> None:
            progress.update(task, completed=done, total=of, figure=_figure(totals))

        yield report


class _Lines:
    def __init__(self, what: str, console) -> None:
        self.what = what
        self.console = console
        self.start = self.last = time.monotonic()

    def report(self, done: int, of: int, totals: IoUTotals | None = None) -> None:
        now = time.monotonic()
        if now - self.last < _SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = (now - self.start) / done * (of - done)
        text = f"{self.what}: {done} of {of}, {_figure(totals)}{duration(left)} left"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _figure(totals: IoUTotals | None) -> str:
    return "" if totals is None or totals.miou != totals.miou else f"mIoU {100 * totals.miou:.2f} "


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "3 h 20 min".

    >>> duration(12000)
    '3 h 20 min'
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
