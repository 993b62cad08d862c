"""A small local Ray of two workers for each file of tests, and its actors' processes."""

import os
from pathlib import Path

import pytest

TAME = {
    "address": "local", "num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20,
    "log_to_driver": False, "logging_level": "ERROR",
}  # fmt: skip


@pytest.fixture(scope="module")
def local_ray():
    """What this Ray was started with."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'sclip_plugin[ray]'")
    ray.init(**TAME)
    yield TAME
    ray.shutdown()


@pytest.fixture
def workers():
    """A function that gives the processes of this Ray's workers."""
    return _workers


def _workers():
    """Processes of this Ray's actors."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"Worker" in name and _is_below(int(entry.name), os.getpid()):
            found.append(int(entry.name))
    return found


def _is_below(process, ancestor):
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
