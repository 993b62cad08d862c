"""Runs that people trust: every picture once, resumed to the last digit, the same with any number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_plugin.evaluation import IoUTotals, read_mask
from sclip_plugin.evaluation.comparison import Comparison
from sclip_plugin.evaluation.datasets import DatasetError
from sclip_plugin.evaluation.picture_log import PictureLog, PictureRecord, ResumeError
from sclip_plugin.evaluation.report import to_dict, to_markdown, worst_sheet, write_report
from sclip_plugin.evaluation.runner import evaluate, map_path
from sclip_plugin.evaluation.sets import demo_set, folder_set, locate
from sclip_plugin.protocols import load_benchmark

from .layouts import fill, write_dataset
from .stand_in import StandIn

BENCHMARK = load_benchmark("voc20")
PICTURES = 11  # a prime: uneven for any number of processes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_dataset(BENCHMARK, root, PICTURES)
    return root


@pytest.fixture
def expected(data):
    """The sums of an evaluation written out plainly."""
    totals = IoUTotals(BENCHMARK.num_classes)
    model = StandIn(BENCHMARK.num_classes)
    for name in (data / BENCHMARK.split).read_text().split():
        picture = Image.open(data / fill(BENCHMARK.images, name)).convert("RGB")
        totals.add(model([picture])[0], read_mask(data / fill(BENCHMARK.masks, name), BENCHMARK))
    return totals


def run(data, output=None, model=None, **options):
    return evaluate(folder_set(BENCHMARK, data), model or StandIn(BENCHMARK.num_classes), output=output, **options)


class TestOneProcess:
    @pytest.mark.parametrize("options", [{}, {"batch": 3}, {"workers": 1}, {"workers": 8, "batch": 20}])
    def test_the_figures_are_those_of_a_plain_loop(self, data, expected, options):
        result = run(data, **options)
        np.testing.assert_array_equal(result.totals.counts, expected.counts)
        assert result.miou == expected.miou and 0 < result.miou < 1
        assert len(result.records) == PICTURES and result.problems == ()

    def test_progress_is_reported_with_running_sums(self, data):
        seen = []
        run(data, report=lambda done, of, totals: seen.append((done, of, totals.miou)))
        assert [done for done, _, _ in seen] == list(range(1, PICTURES + 1))
        assert {of for _, of, _ in seen} == {PICTURES}
        assert seen[-1][2] == run(data).miou

    def test_limit_takes_the_first_pictures(self, data):
        result = run(data, limit=4)
        assert [record.name for record in result.records] == [f"pic_{index:03d}" for index in range(4)]

    def test_decoding_goes_on_while_the_model_computes(self, data):
        pictures = folder_set(BENCHMARK, data)
        busy = []

        def slow_load(name):
            busy.append(("load", name, time.perf_counter()))
            return pictures.load(name)

        model = StandIn(BENCHMARK.num_classes, seconds=0.05)
        slow = type(pictures)(BENCHMARK, pictures.source, pictures.names, slow_load)
        result = evaluate(slow, model, workers=2)
        assert len(result.records) == PICTURES
        # By the time the model has had two pictures, later ones have been read.
        start = busy[0][2]
        assert sum(then - start < 0.1 for _, _, then in busy) > 2

    def test_maps_are_saved_as_indices(self, data, tmp_path):
        result = run(data, tmp_path, save_maps=True)
        for record in result.records:
            saved = np.asarray(Image.open(map_path(tmp_path, record.name)))
            picture = Image.open(data / fill(BENCHMARK.images, record.name)).convert("RGB")
            np.testing.assert_array_equal(saved, StandIn(BENCHMARK.num_classes)([picture])[0])

    def test_what_cannot_be_used_is_left_out_and_named(self, tmp_path):
        names = write_dataset(BENCHMARK, tmp_path, 6)
        image = tmp_path / fill(BENCHMARK.images, names[1])
        image.write_bytes(image.read_bytes()[:100])
        mask = tmp_path / fill(BENCHMARK.masks, names[2])
        Image.open(mask).crop((0, 0, 5, 5)).save(mask)
        (tmp_path / fill(BENCHMARK.masks, names[4])).unlink()
        result = run(tmp_path, tmp_path / "out")
        assert {(p.kind, p.name) for p in result.problems} == {
            ("picture unreadable", names[1]),
            ("sizes differ", names[2]),
            ("mask missing", names[4]),
        }
        assert [record.name for record in result.records] == [names[0], names[3], names[5]]
        assert "3 problems" in to_markdown(result) and to_dict(result)["left_out"] == 3
        # Once mended, only what was left out is computed.
        write_dataset(BENCHMARK, tmp_path, 6)
        model = StandIn(BENCHMARK.num_classes)
        mended = run(tmp_path, tmp_path / "out", model)
        assert model.pictures == 3 and len(mended.records) == 6 and mended.problems == ()

    def test_a_model_that_fails_leaves_what_was_done(self, data, tmp_path, expected):
        model = StandIn(BENCHMARK.num_classes)

        def failing(pictures):
            if model.pictures == 5:
                raise RuntimeError("CUDA out of memory")
            return model(pictures)

        with pytest.raises(RuntimeError, match="out of memory"):
            run(data, tmp_path, failing)
        again = StandIn(BENCHMARK.num_classes)
        assert run(data, tmp_path, again).miou == expected.miou
        assert again.pictures == PICTURES - 5


class TestResuming:
    def test_a_finished_run_computes_nothing(self, data, tmp_path, expected):
        run(data, tmp_path)
        model = StandIn(BENCHMARK.num_classes)
        result = run(data, tmp_path, model)
        assert model.pictures == 0 and result.computed == 0 and result.miou == expected.miou

    def test_without_resume_all_is_computed(self, data, tmp_path):
        run(data, tmp_path)
        model = StandIn(BENCHMARK.num_classes)
        run(data, tmp_path, model, resume=False)
        assert model.pictures == PICTURES
        assert len((tmp_path / "pictures-0.jsonl").read_text().splitlines()) == PICTURES + 1

    def test_a_limit_is_lifted_without_repeating(self, data, tmp_path, expected):
        run(data, tmp_path, limit=4)
        model = StandIn(BENCHMARK.num_classes)
        assert run(data, tmp_path, model).miou == expected.miou
        assert model.pictures == PICTURES - 4

    def test_maps_that_are_missing_are_made(self, data, tmp_path):
        run(data, tmp_path, limit=4)
        model = StandIn(BENCHMARK.num_classes)
        run(data, tmp_path, model, limit=4, save_maps=True)
        assert model.pictures == 4
        map_path(tmp_path, "pic_002").unlink()
        run(data, tmp_path, model, limit=4, save_maps=True)
        assert model.pictures == 5

    @pytest.mark.parametrize("cut", range(0, 140, 9))
    def test_a_log_cut_off_anywhere_is_mended(self, data, tmp_path, expected, cut):
        run(data, tmp_path)
        log = tmp_path / "pictures-0.jsonl"
        log.write_bytes(log.read_bytes()[: -cut or None])
        model = StandIn(BENCHMARK.num_classes)
        result = run(data, tmp_path, model)
        assert result.miou == expected.miou and model.pictures <= 4
        np.testing.assert_array_equal(result.totals.counts, expected.counts)
        names = [json.loads(line).get("name") for line in log.read_text().splitlines()[1:]]
        assert sorted(names) == sorted(set(names)) and len(names) == PICTURES

    @pytest.mark.parametrize("change", ["a digit", "a flipped bit", "a foreign line", "nonsense", "the header"])
    def test_a_line_that_is_not_to_be_trusted_is_done_again_and_said(self, data, tmp_path, expected, change):
        run(data, tmp_path)
        log = tmp_path / "pictures-0.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        if change == "a digit":
            at = lines[3].rindex(b"]") - 1
            lines[3] = lines[3][:at] + (b"1" if lines[3][at : at + 1] != b"1" else b"2") + lines[3][at + 1 :]
        elif change == "a flipped bit":
            lines[3] = lines[3][:20] + bytes([lines[3][20] ^ 128]) + lines[3][21:]
        elif change == "a foreign line":
            run(data, tmp_path / "other", settings={"method": "naclip"})
            lines[3] = (tmp_path / "other/pictures-0.jsonl").read_bytes().splitlines(keepends=True)[3]
        elif change == "nonsense":
            lines[3] = b'{"name": ["x"], "counts": {"999": 1}}\n[[[\n'
        else:
            lines[0] = lines[0].replace(b"voc20", b"voc21")
        log.write_bytes(b"".join(lines))
        model = StandIn(BENCHMARK.num_classes)
        with pytest.warns(UserWarning, match="damaged or not of this run"):
            result = run(data, tmp_path, model)
        assert model.pictures == (change != "the header")
        np.testing.assert_array_equal(result.totals.counts, expected.counts)

    @pytest.mark.parametrize("what", ["images", "masks"])
    def test_a_file_replaced_under_its_name_is_done_again(self, tmp_path, what):
        names = write_dataset(BENCHMARK, tmp_path / "data", 5)
        run(tmp_path / "data", tmp_path / "out")
        path = tmp_path / "data" / fill(getattr(BENCHMARK, what), names[2])
        picture = Image.open(path)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        model = StandIn(BENCHMARK.num_classes)
        result = run(tmp_path / "data", tmp_path / "out", model)
        assert model.pictures == 1
        np.testing.assert_array_equal(result.totals.counts, run(tmp_path / "data").totals.counts)
        assert run(tmp_path / "data", tmp_path / "out", model).computed == 0

    def test_part_of_a_set_is_said_beside_published_figures(self, data):
        result = run(data, limit=4)
        assert "4 of 1,449 pictures" in to_markdown(result) and to_dict(result)["expected"] == 1449
        assert "| 4 of 1,449 |" in Comparison([result]).markdown()

    def test_other_settings_are_refused(self, data, tmp_path):
        run(data, tmp_path, settings={"method": "csa", "logit_scale": 40})
        with pytest.raises(ResumeError, match="logit_scale was 40, now it is 50.*--no-resume"):
            run(data, tmp_path, settings={"method": "csa", "logit_scale": 50})
        with pytest.raises(ResumeError, match="data was"):
            write_dataset(BENCHMARK, tmp_path / "other", 3)
            run(tmp_path / "other", tmp_path, settings={"method": "csa", "logit_scale": 40})
        run(data, tmp_path, settings={"method": "csa", "logit_scale": 50}, resume=False)

    def test_a_killed_run_goes_on(self, data, tmp_path, expected):
        command = [sys.executable, STAND_IN, BENCHMARK.name, data, tmp_path, "0.15"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment())
        log = tmp_path / "pictures-0.jsonl"
        wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = log.read_bytes().count(b"\n") - 1
        assert 3 <= done < PICTURES
        last = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment()).stdout)
        assert last == {"rank": 0, "computed": PICTURES - done, "miou": expected.miou}
        assert json.loads((tmp_path / "results.json").read_text())["miou"] == expected.miou * 100


ROOT = Path(__file__).parents[2]
STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def torchrun(count, data, output, seconds="0"):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)),
        *(STAND_IN, BENCHMARK.name, str(data), str(output), seconds),
    ]


def lines_of(output):
    return sorted((json.loads(line) for line in output.splitlines() if line[:1] == b"{"), key=lambda line: line["rank"])


class TestSeveralProcesses:
    @pytest.mark.parametrize("count", [2, 3])
    def test_the_figures_are_those_of_one(self, data, tmp_path, expected, count):
        done = subprocess.run(torchrun(count, data, tmp_path), capture_output=True, cwd=ROOT, env=environment())
        assert done.returncode == 0, done.stderr.decode()
        lines = lines_of(done.stdout)
        assert [line["miou"] for line in lines] == [expected.miou] * count
        shares = [line["computed"] for line in lines]
        assert sum(shares) == PICTURES and max(shares) - min(shares) == 1
        result = json.loads((tmp_path / "results.json").read_text())
        assert [c["intersection"] for c in result["classes"]] == expected.intersection.tolist()
        assert [picture["name"] for picture in result["per_picture"]] == [f"pic_{i:03d}" for i in range(PICTURES)]

    def test_a_killed_run_goes_on_with_another_number(self, data, tmp_path, expected):
        count = 3
        command = torchrun(count, data, tmp_path, "0.4")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment())
        logs = [tmp_path / f"pictures-{rank}.jsonl" for rank in range(count)]
        wait_for(lambda: all(log.exists() and log.read_bytes().count(b"\n") >= 2 for log in logs), process)
        for rank in range(count):
            os.kill(int((tmp_path / f"{rank}.pid").read_text()), signal.SIGKILL)
        process.communicate()
        before = sum(log.read_bytes().count(b"\n") - 1 for log in logs)
        assert count <= before < PICTURES
        again = subprocess.run(torchrun(2, data, tmp_path), capture_output=True, cwd=ROOT, env=environment())
        assert again.returncode == 0, again.stderr.decode()
        lines = lines_of(again.stdout)
        assert sum(line["computed"] for line in lines) == PICTURES - before
        assert {line["miou"] for line in lines} == {expected.miou}


class TestReports:
    def test_json_and_markdown(self, data, tmp_path):
        settings = {"model": "some/clip", "method": "csa", "published_as": "SCLIP", "steps": ["pamr", "vote"]}
        result = run(data, settings=settings)
        write_report(result, tmp_path)
        content = json.loads((tmp_path / "results.json").read_text())
        assert content["miou"] == result.miou * 100
        assert len(content["classes"]) == 20 and len(content["per_picture"]) == PICTURES
        assert content["settings"]["method"] == "csa"
        text = (tmp_path / "results.md").read_text()
        assert (
            f"**mIoU {result.miou * 100:.2f}**" in text
            and "81.54" in text
            and "some/clip, method csa, steps pamr, vote" in text
        )
        assert "| aeroplane |" in text and "authors' own" not in text
        result.settings.update(published_as="", differs="hard masks")
        text = to_markdown(result)
        assert "Not the authors' own settings: hard masks." in text and "81.54" not in text

    def test_a_table_of_runs_beside_the_published_figures(self, data):
        result = run(data, settings={"method": "csa", "published_as": "SCLIP"})
        table = Comparison([result], [("cityscapes", "not in 'data'")]).markdown()
        assert f"| voc20 | csa | {result.miou * 100:.2f} | 81.54 (SCLIP); 80.4 (SCLIP) |" in table
        assert "| cityscapes | - | - | - | - | not in 'data' | - | - |" in table

    def test_the_worst_pictures_stand_beside_their_ground_truth(self, data):
        result = run(data)
        worst = result.worst(3)
        assert [r.miou for r in worst] == sorted(r.miou for r in result.records)[:3]
        sheet = worst_sheet(result, folder_set(BENCHMARK, data), StandIn(20), 3)
        assert sheet.width > sheet.height / 3 > 50

    def test_the_worst_stand_at_one_scale(self, data, monkeypatch):
        from sclip_plugin.draw import overlay

        seen = []
        together = overlay.side_by_side
        monkeypatch.setattr(
            overlay, "side_by_side", lambda panels, **how: (seen.append(panels), together(panels, **how))[1]
        )
        result = run(data)
        worst_sheet(result, folder_set(BENCHMARK, data), StandIn(20), 2)
        for first in (0, 3):
            row = seen[0][first : first + 3]
            assert len({picture.size for _, picture in row}) == 1
            assert row[0][0].endswith(" %") and [caption for caption, _ in row[1:]] == ["ground truth", "label map"]

    def test_a_picture_without_labelled_pixels_is_never_the_worst(self):
        assert np.isnan(PictureRecord("x", np.zeros((3, 2), np.int64)).miou)


def test_the_log_keeps_names_and_counts_of_any_kind(tmp_path):
    counts = np.arange(6).reshape(3, 2) * 10**12
    log = PictureLog(tmp_path, {"a": (1, 2)}, 2)
    log.open()
    log.append(PictureRecord("stadt/größe 1", counts))
    log.close()
    (record,) = PictureLog(tmp_path, {"a": [1, 2]}, 2).read().values()
    assert record.name == "stadt/größe 1"
    np.testing.assert_array_equal(record.counts, counts)


def test_a_line_of_an_older_log_is_done_again(tmp_path, monkeypatch):
    log = PictureLog(tmp_path, {}, 2)
    log.open()
    older = {"name": "a", "source": "", "counts": {}}
    monkeypatch.setattr(PictureRecord, "to_dict", lambda record: older)
    log.append(PictureRecord("a", np.zeros((3, 2))))
    log.close()
    with pytest.warns(UserWarning, match="done again"):
        assert PictureLog(tmp_path, {}, 2).read() == {}


def test_demo_scenes_are_a_benchmark():
    scenes = demo_set(scenes=3)
    picture, target = scenes.load(scenes.names[2])
    assert target.shape == picture.size[::-1]
    assert 0 <= target.min() and target.max() < scenes.benchmark.num_classes
    result = evaluate(scenes, StandIn(scenes.benchmark.num_classes))
    assert len(result.records) == 3 and result.benchmark == "demo"


class TestLocating:
    def test_in_a_folder_of_data_sets(self, tmp_path):
        write_dataset(load_benchmark("voc21"), tmp_path / "VOCdevkit" / "VOC2012")
        write_dataset(load_benchmark("cityscapes"), tmp_path / "cityscapes")
        assert locate(load_benchmark("voc20"), tmp_path) == tmp_path / "VOCdevkit" / "VOC2012"
        assert locate(load_benchmark("cityscapes"), tmp_path) == tmp_path / "cityscapes"
        assert locate(load_benchmark("cityscapes"), tmp_path / "cityscapes") == tmp_path / "cityscapes"
        with pytest.raises(DatasetError, match="looked in .*, ade/ADEChallengeData2016.*found VOCdevkit/, cityscapes/"):
            locate(load_benchmark("ade20k"), tmp_path)
