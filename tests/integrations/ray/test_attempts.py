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
from sclip_plugin.integrations.ray.plan import Entry
from sclip_plugin.integrations.ray.worker import Worker

def rows(items):  # a model that ends the process at one picture
    if any(item.source == "deadly" for item in items):
        os._exit(9)
    return [{"width": len(item.source), "height": 1, "segments": [], "error": None} for item in items]

worker = Worker.__new__(Worker)
worker.folder, worker.rows = Path(sys.argv[1]), rows
block = [Entry(source) for source in ("a", "bb", "deadly", "ccc")]
for _ in range(9):
    if not (child := os.fork()):
        worker.block(0, block)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(ended)
    if ended == 0:
        break
"""


def test_it_is_left_out(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", ATTEMPTS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.split() == ["9", "9", "9", "9", "0"], done.stderr
    rows = pq.read_table(part_path(tmp_path, 0)).to_pylist()
    assert [(row["source"], row["width"]) for row in rows] == [("a", 1), ("bb", 2), ("deadly", None), ("ccc", 3)]
    assert "died 2 times on this picture alone" in rows[2]["error"]
    assert not attempts_path(tmp_path, 0).exists()


def test_an_attempt_that_was_stopped_elsewhere_blames_nobody(tmp_path):
    """Killed between pictures, however often."""
    for _ in range(5):
        attempts = Attempts(tmp_path / "0.txt")
        attempts.__enter__()
        with attempts.at(0):
            pass
    assert Attempts(tmp_path / "0.txt").careful and not Attempts(tmp_path / "0.txt").blames(0)
