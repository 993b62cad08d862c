"""``sclip eval demo`` with the model that ships: the whole of it, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sclip_plugin.demo import demo_model

ROOT = Path(__file__).parents[2]
SCENES = 5


@pytest.fixture(scope="module")
def model():
    try:
        demo_model()
        return "demo"
    except FileNotFoundError as error:
        pytest.skip(f"no demo model: {error}")


def run(command, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "demo", "--scenes", str(SCENES), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(out, method="csa"):
    (path,) = out.glob(f"*/demo-{method}/results.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def one_process(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    text = run(["-m", "sclip_plugin", "eval"], "--model", model, "--out", out, "--worst", 2)
    assert "demo-csa: mIoU" in text
    return results(out)


def test_figures_are_better_than_chance(one_process):
    assert one_process["pictures"] == SCENES and one_process["left_out"] == 0
    assert one_process["aacc"] > 10 and one_process["miou"] > 2  # 50 classes


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_same_counts(model, one_process, tmp_path, count):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    run([*torchrun, "-m", "sclip_plugin", "eval"], "--model", model, "--out", tmp_path)
    shared = results(tmp_path)
    assert shared["classes"] == one_process["classes"]
    assert shared["per_picture"] == one_process["per_picture"]
    assert shared["miou"] == one_process["miou"]
