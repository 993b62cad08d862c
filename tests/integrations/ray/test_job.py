"""Collections on a local Ray of two workers: every picture once, whoever is killed, whatever is broken."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import SclipError, SettingError

pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'sclip_plugin[ray]'")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from sclip_plugin.integrations.ray import segment_files  # noqa: E402
from sclip_plugin.integrations.ray.cluster import workers_of  # noqa: E402
from sclip_plugin.integrations.ray.plan import JobError  # noqa: E402

pytestmark = pytest.mark.usefixtures("local_ray")

LABELS = ["cat", "grass", "sky"]
QUICK = {"templates": "plain"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve scenes, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(12):
        sp.draw_scene(seed=seed, size=(96, 72)).picture.save(folder / f"{seed:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def rows_of(out):
    return pq.read_table(Path(out) / "results.parquet").to_pylist()


def each_once(rows, folder):
    assert Counter(row["source"] for row in rows) == Counter(str(path) for path in Path(folder).glob("*.png"))
    (bad,) = [row for row in rows if row["error"]]
    assert bad["source"].endswith("broken.png") and "cannot be read as a picture" in bad["error"]


def test_results_are_a_segmenters_and_a_second_call_has_nothing_to_do(pictures, tmp_path):
    seen = []
    call = dict(out=tmp_path, model="demo", block=4, files=True, **QUICK)
    summary = segment_files(pictures, LABELS, report=lambda *done: seen.append(done), **call)
    assert (summary.blocks, summary.computed, summary.pictures, summary.failed) == (4, 4, 13, 1)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    rows = rows_of(tmp_path)
    each_once(rows, pictures)
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", **QUICK)
    for row in rows:
        if row["error"]:
            continue
        with Image.open(row["source"]) as file:
            result = segmenter(file, LABELS)
        label_map = np.full((row["height"], row["width"]), -1)
        for segment in row["segments"]:
            mask = coco.decode({"size": [row["height"], row["width"]], "counts": segment["counts"]}).astype(bool)
            label_map[mask] = segment["index"]
            assert segment["label"] == LABELS[segment["index"]] and segment["area"] == mask.sum()
            assert segment["score"] == pytest.approx(result.mean_scores()[segment["label"]], abs=1e-4)
        assert (label_map != result.label_map).mean() < 1e-3  # batches differ, and with them the last digits
        saved = sp.Segmentation.load(tmp_path, Path(row["source"]).stem)
        assert (saved.label_map == label_map).all()
    again = segment_files(pictures, LABELS, **call)
    assert (again.computed, again.failed) == (0, 1)
    with pytest.raises(JobError, match="labels was"):
        segment_files(pictures, ["dog"], **call)
    with pytest.raises(JobError, match="method was 'csa', now it is 'naclip'"):
        segment_files(pictures, LABELS, method="naclip", **call)


def test_what_failed_is_looked_at_again(pictures, tmp_path):
    """Nothing else is: rows of the others are those of before."""
    for path in sorted(pictures.glob("*.png"))[-5:]:
        shutil.copy(path, tmp_path / path.name)  # the broken one among them
    call = dict(out=tmp_path / "out", model="demo", block=2, workers=1, **QUICK)
    segment_files(tmp_path, LABELS, **call)
    before = {row["source"]: row for row in rows_of(tmp_path / "out")}
    sp.draw_scene(5, size=(96, 72)).picture.save(tmp_path / "broken.png")
    assert segment_files(tmp_path, LABELS, **call).failed == 1
    summary = segment_files(tmp_path, LABELS, retry=True, **call)
    assert (summary.computed, summary.failed) == (1, 0)
    after = {row["source"]: row for row in rows_of(tmp_path / "out")}
    changed = {source for source, row in after.items() if row != before[source]}
    assert changed == {str(tmp_path / "broken.png")} and after.keys() == before.keys()


def test_another_model_on_the_workers_is_refused(pictures, tmp_path, monkeypatch):
    """In one sentence, without the traces that Ray puts around it."""
    from sclip_plugin.integrations.ray import rows

    made = rows.Work.of
    monkeypatch.setattr(
        rows.Work, "of", lambda *given, **options: replace(made(*given, **options), weights=("float32", "other"))
    )
    with pytest.raises(SclipError, match="has other weights than the driver's") as caught:
        segment_files(pictures, LABELS, out=tmp_path, model="demo", workers=1, **QUICK)
    assert len(str(caught.value).splitlines()) == 1


def test_masks_of_a_folder_are_found_from_anywhere(pictures, tmp_path, monkeypatch):
    """Workers stay in the folder in which Ray was started; members of a tar have masks by their names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(pictures / "00.png", "x/00.png")
    ids = np.zeros((72, 96), np.uint8)
    ids[20:40] = 1
    Image.fromarray(ids).save(tmp_path / "m/00.png")
    summary = segment_files("t.tar", LABELS, out="out", model="demo", masks="m", workers=1, **QUICK)
    assert (summary.pictures, summary.failed) == (1, 0), rows_of("out")


def test_a_worker_is_killed(pictures, tmp_path, workers):
    """Its process gets SIGKILL once the first block is done; Ray starts it anew, with its block."""
    killed = []

    def kill_one(done, of):
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    summary = segment_files(pictures, LABELS, out=tmp_path, model="demo", block=1, workers=2, report=kill_one, **QUICK)
    assert killed and not Path(f"/proc/{killed[0]}/cwd").exists()
    assert (summary.computed, summary.pictures, summary.failed) == (13, 13, 1)
    each_once(rows_of(tmp_path), pictures)


def test_shards(pictures, tmp_path):
    """A tar with a member that is no picture and a Parquet file with an empty cell, two row groups."""
    files = sorted(pictures.glob("0*.png"))[:4]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in files:
            tar.add(path, f"x/{path.name}")
        tar.addfile(tarfile.TarInfo("x/00.txt"), io.BytesIO())
    cells = [path.read_bytes() for path in files[:3]] + [None]
    pq.write_table(pa.table({"id": range(4), "jpg": cells}), tmp_path / "b.parquet", row_group_size=2)
    out = tmp_path / "out"
    summary = segment_files(tmp_path, LABELS, out=out, model="demo", workers=1, **QUICK)
    assert (summary.blocks, summary.pictures, summary.failed) == (3, 8, 1)
    rows = {(Path(row["source"]).name, row["key"]): row for row in rows_of(out)}
    assert set(rows) == {("a.tar", f"x/{p.name}") for p in files} | {("b.parquet", str(i)) for i in range(4)}
    assert rows["b.parquet", "3"]["error"].startswith("an empty cell")
    assert rows["a.tar", "x/02.png"]["segments"] == rows["b.parquet", "2"]["segments"]


@pytest.mark.parametrize(
    "has, given, expected",
    [
        ({"CPU": 4.0}, {}, (4, {"num_cpus": 1}, "cpu")),
        ({"CPU": 4.0}, {"spare": 1}, (3, {"num_cpus": 1}, "cpu")),
        ({"CPU": 1.0}, {"spare": 1}, (1, {"num_cpus": 0}, "cpu")),
        ({"CPU": 64.0, "GPU": 8.0}, {}, (8, {"num_gpus": 1, "num_cpus": 1}, "cuda")),
        ({"CPU": 8.0, "GPU": 8.0}, {"spare": 1}, (7, {"num_gpus": 1, "num_cpus": 1}, "cuda")),
        ({"CPU": 64.0, "GPU": 8.0}, {"workers": 20}, (20, {"num_gpus": 1 / 3, "num_cpus": 1}, "cuda")),
        ({"CPU": 64.0, "GPU": 8.0}, {"device": "cpu", "workers": 3}, (3, {"num_cpus": 1}, "cpu")),
    ],
)
def test_workers_take_what_the_cluster_has(monkeypatch, has, given, expected):
    monkeypatch.setattr("ray.cluster_resources", lambda: has)
    assert workers_of(**{"device": None, **given}) == expected


@pytest.mark.parametrize(
    "device, workers, says",
    [(None, 0, "workers=0; expected 1 or more"), ("cuda", None, "0 GPUs; expected 'cpu'"), ("cpu:1", None, "'cpu:1'")],
)
def test_what_the_cluster_cannot_give_is_refused(monkeypatch, device, workers, says):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(SettingError, match=says):
        workers_of(device, workers)


def test_workers_that_leave_nothing_to_a_reader_are_refused(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(SettingError, match="none of 4 processors .* expected 3 or fewer"):
        workers_of(None, 4, spare=1)


DRIVER = """
import ray, sys
from sclip_plugin.integrations.ray import segment_files
ray.init(**{tame})
segment_files({pictures!r}, {labels}, out={out!r}, model="demo", block=1, workers=1, templates="plain",
                report=lambda done, of: print(done, flush=True))
"""


def test_the_driver_is_killed_and_the_job_goes_on(pictures, tmp_path, local_ray):
    """In a process with a Ray of its own, after two blocks; the parts that are there are not written again."""
    script = DRIVER.format(tame=local_ray, pictures=str(pictures), labels=LABELS, out=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    watch = threading.Timer(60, driver.kill)
    watch.start()
    while (line := driver.stdout.readline()) and int(line) < 2:
        pass
    driver.kill()
    driver.wait()
    watch.cancel()
    assert line, "the driver ended before two blocks were done"
    time.sleep(1)  # its worker ends with it, perhaps after the block at hand
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "results.parquet").glob("part-*.parquet")}
    assert 2 <= len(parts) < 13
    summary = segment_files(pictures, LABELS, out=tmp_path, model="demo", block=1, workers=2, **QUICK)
    assert summary.computed == 13 - len(parts)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    each_once(rows_of(tmp_path), pictures)
