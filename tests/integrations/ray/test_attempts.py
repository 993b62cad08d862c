"""A picture that ends its worker's process costs four attempts, and never the job."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'sclip_plugin[ray]'")
import pyarrow.parquet as pq  # noqa: E402
from sclip_plugin.integrations.ray.attempts import Attempts  # noqa: E402
from sclip_plugin.integrations.ray.plan import attempts_path, part_path  # noqa: E402

ATTEMPTS = """
import os, sys
from pathlib import Path
from sclip_plugin.integrations.ray import worker as module
from sclip_plugin.integrations.ray.plan import Entry
from sclip_plugin.integrations.ray.sources import Item

folder, run, where = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def items_of(block):  # a shard
    for entry in block:
        if where == "read" and entry.path == "deadly":
            os._exit(9)
        yield Item(entry.path, None, "", None)

def rows(items):  # a model that ends the process at one picture
    if where == "look" and any(item.source == "deadly" for item in items):
        os._exit(9)
    return [{"width": len(item.source), "height": 1, "segments": [], "error": None} for item in items]

module.items_of = items_of
worker = module.Worker.__new__(module.Worker)
worker.folder, worker.run, worker.rows = folder, run, rows
block = [Entry(source) for source in ("a", "bb", "deadly", "ccc")]
for _ in range(9):
    if not (child := os.fork()):
        if where == "start":
            module.Attempts(module.attempts_path(folder, 0), run).__enter__()
            if not module.Attempts(module.attempts_path(folder, 0), run).hopeless:
                os._exit(9)
        worker.block(0, block)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(ended)
    if ended == 0:
        break
"""


def attempted(folder, where):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", ATTEMPTS, str(folder), "a run", where]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert not attempts_path(folder, 0).exists(), done.stderr
    return done.stdout.split(), pq.read_table(part_path(folder, 0)).to_pylist()


def test_a_picture_is_left_out(tmp_path):
    ends, rows = attempted(tmp_path, "look")
    assert ends == ["9", "9", "9", "9", "0"]
    assert [(row["source"], row["width"]) for row in rows] == [("a", 1), ("bb", 2), ("deadly", None), ("ccc", 3)]
    assert "died 2 times on this alone" in rows[2]["error"]


def test_a_shard_that_cannot_be_read_further_ends_there(tmp_path):
    ends, rows = attempted(tmp_path, "read")
    assert ends == ["9", "9", "9", "9", "0"]
    assert [(row["source"], row["width"]) for row in rows] == [("a", 1), ("bb", 2), ("ccc", None)]
    assert "died 2 times on this alone" in rows[2]["error"]


def test_a_block_on_which_workers_die_before_the_first_picture_is_given_up(tmp_path):
    ends, rows = attempted(tmp_path, "start")
    assert ends[-1] == "0" and 4 <= len(ends) < 9
    assert [row["error"] is None for row in rows] == [False] * 4


def test_a_driver_that_was_stopped_blames_nobody(tmp_path):
    """Its workers died at the first picture, five times; the next driver's does not know."""
    for run in range(5):
        attempts = Attempts(tmp_path / "0.txt", str(run))
        attempts.__enter__()
        attempts.at("look 0").__enter__()
        again = Attempts(tmp_path / "0.txt", str(run + 1))
        assert not again.careful and not again.blames("look 0") and not again.hopeless


def test_an_index_leaves_the_same_out(tmp_path, monkeypatch):
    """What earlier attempts of the run died on is a row with its error; the others are looked at one by one."""
    from sclip_plugin.integrations.ray import indexing

    from sclip_plugin.index.building import File
    from sclip_plugin.index.store import Row

    looked = []
    monkeypatch.setattr(
        indexing, "looked_at", lambda files, *_: looked.append(files) or [Row(file.path) for file in files]
    )
    looker = indexing._Looker.__new__(indexing._Looker)
    looker.attempts, looker.run, looker.known = tmp_path, "a run", {}
    looker.segmenter = looker.root = looker.settings = None
    files = [File("a", 1, 1), File("deadly", 1, 1), File("b", 1, 1)]
    assert [row.error for row in looker.rows(files)] == [None] * 3 and looked == [files]

    died = ["run a run", "begin", "begin"] + ["begin", "look 0", "done", "look 1"] * 2
    monkeypatch.setattr(Attempts, "__exit__", lambda *_: None)  # so that the name of the file is seen
    looker.rows(files)
    (notes,) = tmp_path.iterdir()
    notes.write_text("\n".join(died) + "\n")
    looked.clear()
    rows = looker.rows(files)
    assert [(row.path, row.error is None) for row in rows] == [("a", True), ("deadly", False), ("b", True)]
    assert looked == [files[:1], files[2:]]
