"""Does every formula and every rule have a test that fails when it is changed?

    python tests/mutations.py [--only TEXT] [--sample N --seed S] [--jobs J]

Each line of MUTATIONS changes one place in a copy of the source tree, and the tests of its room run on the copy. A
mutation is killed where a test fails; one that survives is a formula that nothing holds. Exit code 1 if any survives.

The large packages are imported once. Each run is a fork that imports the changed copy itself, so Linux or macOS only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
from mutation_list import MUTATIONS, ROOMS, WIDER, Mutation

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # after which a run is ended; a mutation that hangs is killed, too
OUTPUT = "output.txt"
VERDICTS = {0: "SURVIVED", 1: "killed", -signal.SIGALRM: "killed"}
LARGE = ("torch", "transformers", "open_clip", "timm", "cv2", "skimage.measure", "scipy.ndimage", "sklearn", "rasterio")
"""Packages that are imported once, before the forks."""


def stages(path: str) -> list[list[str]]:
    """The tests that run for a source file; the later ones where those before find nothing."""
    room = ROOMS[max((room for room in ROOMS if path.startswith(room)), key=len)]
    wider = WIDER if path.startswith(("sclip_plugin/methods/", "sclip_plugin/steps/")) else ""
    return [[f"tests/{name}" for name in names.split()] for names in (room, wider) if names]


def copied(copy: Path) -> Path:
    """A copy of the tree, with bytecode: only what is changed is compiled again."""
    copy.mkdir()
    for part in ("sclip_plugin", "integrations", "tests"):
        ignored = shutil.ignore_patterns("integrations" if part == "sclip_plugin" else "")
        shutil.copytree(ROOT / part, copy / part, ignore=ignored)
    (copy / "sclip_plugin" / "integrations").symlink_to("../integrations")
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def changed(copy: Path, path: str, before: str, after: str) -> None:
    """One place of a file in the copy changed, without a change of its own bytecode."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert before in text, f"{path} does not say {before!r} any more; mend MUTATIONS"
    (copy / path).write_text(text.replace(before, after), encoding="utf-8")
    os.utime(copy / path, (0, 0))  # bytecode is told apart by time and length


def forked(copy: Path, tests: list[str]) -> int:
    """A process that runs test files on the copy: its number. Its exit code is pytest's."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        signal.alarm(SECONDS)
        os.chdir(copy)
        output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(copy))
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*tests, *options]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def survivors(chosen: list[Mutation], jobs: int) -> int:
    """Run mutations, ``jobs`` at a time; returns how many were not killed."""
    alive, waiting = 0, chosen[::-1]
    running: dict[int, tuple[Mutation, Path, list[list[str]], float]] = {}
    with tempfile.TemporaryDirectory(prefix="mutations-", ignore_cleanup_errors=True) as folder:
        free = [copied(Path(folder) / str(number)) for number in range(min(jobs, len(chosen)))]
        while waiting or running:
            while waiting and free:
                mutation, copy = waiting.pop(), free.pop()
                changed(copy, *mutation)
                first, *later = stages(mutation[0])
                running[forked(copy, first)] = mutation, copy, later, time.monotonic()
            child, status = os.wait()
            mutation, copy, later, begun = running.pop(child)
            verdict = VERDICTS.get(os.waitstatus_to_exitcode(status), "COULD NOT RUN")
            if verdict == "SURVIVED" and later:
                running[forked(copy, later[0])] = mutation, copy, later[1:], begun
                continue
            path, before, after = mutation
            seconds = f"{time.monotonic() - begun:3.0f} s"
            print(f"{verdict}  {seconds}  {path}: {before.strip()}  ->  {after.strip()}", flush=True)
            if verdict == "COULD NOT RUN":
                print((copy / OUTPUT).read_text(encoding="utf-8", errors="replace")[-2000:], flush=True)
            alive += verdict != "killed"
            shutil.copy2(ROOT / path, copy / path)
            free.append(copy)
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutations whose file or text holds this")
    parser.add_argument("--sample", type=int, help="so many of them, drawn by chance")
    parser.add_argument("--seed", default="0", help="what decides which are drawn, any text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    given = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if given.only in mutation[0] or given.only in mutation[1]]
    if given.sample is not None:
        chosen = random.Random(given.seed).sample(chosen, min(given.sample, len(chosen)))
    for package in LARGE:
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    assert "sclip_plugin" not in sys.modules, "each fork imports its own copy"
    alive = survivors(chosen, max(1, given.jobs))
    print(f"{len(chosen)} mutations, {len(chosen) - alive} killed, {alive} survived")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
