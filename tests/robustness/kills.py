"""Processes that are killed at any step of their writing, and processes that write into one folder at once.

A child is forked for each kill, so that the model is loaded once. In it every opening for writing, write, replacement
and removal of a file is counted, and before, in the middle of (for a write) or after the n-th the child kills itself.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .campaigns import Tally, everything_in, sclip, segmenter

STEPS = ("before", "in", "after")


class _Watched:
    """A file open for writing whose writes are steps. It has no number, so that Pillow writes through it."""

    def __init__(self, file: Any, step: _Steps) -> None:
        self._file, self._step = file, step

    def write(self, data: bytes) -> int:
        self._step(lambda: self._file.write(data), lambda: self._file.write(bytes(data)[: len(data) // 2]))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        if name == "fileno":
            raise AttributeError(name)
        return getattr(self._file, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class _Steps:
    """Counts steps within a folder, and kills the process at one of them."""

    def __init__(self, folder: Path, kill_at: int, when: str) -> None:
        self.folder, self.kill_at, self.when, self.count = str(folder), kill_at, when, 0

    def __call__(self, action: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        now = self.count == self.kill_at
        self.count += 1
        if now and self.when == "before":
            self.die()
        if now and self.when == "in" and half:
            half()
            self.die()
        result = action()
        if now:
            self.die()
        return result

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def inside(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self.folder)

    def install(self) -> None:
        open_, os_open, replace, unlink, write = builtins.open, os.open, os.replace, os.unlink, os.write
        descriptors: set[int] = set()

        def watched_open(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not self.inside(path) or not set(mode) & set("wxa+"):
                return open_(path, mode, *rest, **options)
            return _Watched(self(lambda: open_(path, mode, *rest, **options)), self)

        def watched_os_open(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if not self.inside(path) or not flags & (os.O_WRONLY | os.O_RDWR):
                return os_open(path, flags, *rest, **options)
            number = self(lambda: os_open(path, flags, *rest, **options))
            descriptors.add(number)
            return number

        def watched_write(number: int, data: Any) -> int:
            if number not in descriptors:
                return write(number, data)
            return self(lambda: write(number, data), lambda: write(number, bytes(data)[: len(data) // 2]))

        def steps(function: Callable[..., Any]) -> Callable[..., Any]:
            def watched(path: Any, *rest: Any, **options: Any) -> Any:
                if not self.inside(path):
                    return function(path, *rest, **options)
                return self(lambda: function(path, *rest, **options))

            return watched

        builtins.open, os.open, os.write = watched_open, watched_os_open, watched_write  # type: ignore[assignment]
        os.replace, os.unlink = steps(replace), steps(unlink)


def in_a_child(action: Callable[[], Any], steps: _Steps | None = None) -> tuple[int, int]:
    """Run an action in a forked process: (its exit status, negative for a signal; the steps it took)."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        code = 98
        try:
            if steps:
                steps.install()
            code = int(action() or 0)
        finally:
            os.write(writing, str(steps.count if steps else 0).encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        count = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), count


def _contents(folder: Path) -> dict[str, bytes]:
    return {os.path.relpath(path, folder): Path(path).read_bytes() for path in everything_in(folder)}


def _draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        values = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")


def _mixed(out: Path, expected: dict[str, dict[str, bytes]]) -> list[str]:
    """What is wrong with the results in a folder: a JSON that is none of those expected, or names a file of another."""
    wrong = []
    for path in out.rglob("*.json"):
        if path.name.startswith("."):  # what a kill left behind, for the next run to sweep
            continue
        name = str(path.relative_to(out))
        of = [files for files in expected.values() if files.get(name) == path.read_bytes()]
        if not of:
            wrong.append(f"{name} is of no run")
            continue
        for file in json.loads(path.read_bytes())["files"].values():
            place = str(Path(name).parent / file)
            if not (out / place).is_file():
                wrong.append(f"{place} is missing")
            elif not any((out / place).read_bytes() == files.get(place) for files in of):
                wrong.append(f"{place} is of another run than {name}")
    return wrong


def segmenting(count: int, seed: int, folder: Path) -> Tally:
    """``sclip segment`` with other labels into a finished folder, killed; then the first run again with --resume."""
    rng, tally, one = random.Random(seed), Tally(), segmenter()
    _draw(folder / "in", 2)
    runs = {"A": ["-l", "cat,dog,tree", "--heatmaps"], "B": ["-l", "cow,horse"], "C": ["-l", "dog,cat", "--heatmaps"]}

    def run(name: str, out: Path, *more: str) -> Callable[[], int]:
        return lambda: sclip(one, "segment", str(folder / "in"), "-o", str(out), *runs[name], *more)[0]

    expected, steps = {}, {}
    for name in runs:
        code, _ = in_a_child(run(name, folder / name))
        assert code == 0, code
        expected[name] = _contents(folder / name)
    for name in runs:
        out = folder / "dry"
        shutil.copytree(folder / "A", out)
        steps[name] = in_a_child(run(name, out), _Steps(out, -1, ""))[1]
        shutil.rmtree(out)
    for index in range(count):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        first, second = rng.choice(("A", "C")), rng.choice(("A", "B", "C"))
        shutil.copytree(folder / first, out)
        what = f"kill {index} of seed {seed}: {second} into {first}"
        tally.faults += 1
        for _ in range(rng.choice((1, 1, 2))):  # some are killed once more
            kill = _Steps(out, rng.randrange(max(1, steps[second])), rng.choice(STEPS))
            code, _ = in_a_child(run(second, out, *rng.choice(((), ("--resume",)))), kill)
            tally.expect(code in (-signal.SIGKILL, 0), f"{what}: exit code {code}")
            for wrong in _mixed(out, expected):
                tally.accidents.append(f"{what}, {kill.when} step {kill.kill_at}: {wrong}")
        code, _ = in_a_child(run(first, out, "--resume"))
        tally.expect(code == 0, f"{what}: going on ends with {code}")
        got = _contents(out)
        tally.expect(
            got == expected[first],
            f"{what}, {kill.when} step {kill.kill_at}: after going on "
            f"{sorted(name for name in {*got, *expected[first]} if got.get(name) != expected[first].get(name))} differ",
        )
    return tally


def evaluating(count: int, seed: int, folder: Path) -> Tally:
    """An evaluation with maps, killed and gone on with: the same counts, maps and number of pictures."""
    from sclip_plugin.evaluation.runner import evaluate
    from sclip_plugin.evaluation.sets import EvaluationSet
    from sclip_plugin.protocols import load_benchmark

    rng, tally = random.Random(seed), Tally()
    names = tuple(f"{index}" for index in range(6))

    def load(name: str) -> tuple[Image.Image, np.ndarray]:
        values = np.random.default_rng(int(name)).integers(0, 20, (12, 16))
        return Image.fromarray(np.dstack([values.astype(np.uint8)] * 3)), values

    data = EvaluationSet(load_benchmark("voc20"), "drawn", names, load)

    def run(out: Path) -> Any:
        return evaluate(
            data, lambda pictures: [np.asarray(p)[..., 0] // 2 for p in pictures], output=out, save_maps=True
        )

    expected = run(folder / "whole").totals.counts
    maps = _contents(folder / "whole/maps")
    total = in_a_child(lambda: run(folder / "dry") and 0, _Steps(folder / "dry", -1, ""))[1]
    for index in range(count):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        kill = _Steps(out, rng.randrange(total), rng.choice(STEPS))
        what = f"kill {index} of seed {seed}, {kill.when} step {kill.kill_at}"
        tally.faults += 1
        code, _ = in_a_child(lambda out=out: run(out) and 0, kill)
        tally.expect(code in (-signal.SIGKILL, 0), f"{what}: exit code {code}")  # steps of threads are counted roughly
        result = tally.attempt(what, lambda out=out: run(out))
        tally.faults -= 1
        fine = (
            result is not None and np.array_equal(result.totals.counts, expected) and len(result.records) == len(names)
        )
        tally.expect(fine, f"{what}: other figures")
        visible = {name: data for name, data in _contents(out / "maps").items() if not name.startswith(".")}
        tally.expect(visible == maps, f"{what}: other maps")
    return tally


def _replace_slowly(rng: random.Random) -> None:
    """Rests between the steps in which a result takes its place, where others could come between."""
    replace = os.replace

    def slow(source: Any, target: Any) -> None:
        time.sleep(rng.random() / 50)
        replace(source, target)

    os.replace = slow  # type: ignore[assignment]


def sharing(count: int, seed: int, folder: Path) -> Tally:
    """Processes that segment with other labels into one folder and one text cache at once, some of them killed."""
    rng, tally = random.Random(seed), Tally()
    _draw(folder / "in", 2)
    runs = {name: ["-l", labels, "--heatmaps"] for name, labels in (("A", "cat,dog"), ("B", "dog,cat"), ("C", "cow"))}
    one = segmenter()
    cache = folder / "cache"

    def run(name: str, out: Path) -> Callable[[], int]:
        def action() -> int:
            one.text_bank.cache_dir = cache
            code, _, said = sclip(one, "segment", str(folder / "in"), "-o", str(out), *runs[name])
            if code:
                print(f"{name} ends with {code}: {said}", file=sys.stderr)
            return code

        return action

    expected = {}
    for name in runs:
        in_a_child(run(name, folder / name))
        expected[name] = _contents(folder / name)
    for index in range(count):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        tally.faults += 1
        children = {}
        for name in runs:
            process = os.fork()
            if not process:
                code = 98
                _replace_slowly(random.Random(f"{seed} {index} {name}"))
                try:
                    code = run(name, out)()
                finally:
                    os._exit(code)
            children[process] = name
        if index % 2:
            os.kill(rng.choice(list(children)), signal.SIGKILL)
        for process, name in children.items():
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            tally.expect(code in (0, -signal.SIGKILL), f"sharing {index} of seed {seed}: {name} ends with {code}")
        for wrong in _mixed(out, expected):
            tally.accidents.append(f"sharing {index} of seed {seed}: {wrong}")
    return tally
