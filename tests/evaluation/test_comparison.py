"""Tables over several runs: what stands in them, in Markdown, CSV and LaTeX; time and memory."""

import csv
import io
import json

import numpy as np
import pytest

from sclip_plugin.evaluation.comparison import COLUMNS, Comparison
from sclip_plugin.evaluation.cost import PeakMemory
from sclip_plugin.evaluation.metric import IoUTotals
from sclip_plugin.evaluation.picture_log import PictureRecord
from sclip_plugin.evaluation.runner import EvaluationResult, evaluate
from sclip_plugin.evaluation.sets import demo_set
from sclip_plugin.protocols import load_benchmark


def made(benchmark, method, right, published_as="", seconds=0.25, peak=2_500_000_000):
    totals = IoUTotals(2)
    totals.add(np.array([[0] * right + [1] * (100 - right)]), np.zeros((1, 100), int))
    records = tuple(PictureRecord(str(n), totals.counts, seconds=s, peak=peak) for n, s in enumerate([seconds, 9.0, 0]))
    settings = {"method": method, "model": "some/clip", "published_as": published_as}
    published = load_benchmark(benchmark).published
    return EvaluationResult(benchmark, benchmark, ("a", "b"), settings, totals, records, published=published)


RUNS = [
    made("voc20", "csa", 19, "SCLIP"),
    made("voc20", "naclip(std=4.0)", 90, seconds=0),
    made("voc21", "csa", 50, peak=3_000_000_000),
    made("voc21", "naclip(std=4.0)", 40, peak=0),
]


def test_latex_has_a_line_a_method_and_the_best_in_bold():
    rows = Comparison(RUNS).latex().splitlines()
    assert rows[:2] == [r"\begin{tabular}{lrrrrr}", r"\toprule"] and rows[-1] == r"\end{tabular}"
    assert rows[2] == r"method & voc20 & voc21 & mean & s / picture & GB \\"
    assert rows[4] == r"csa & 9.50 (81.54) & \textbf{25.00} & 17.25 & 4.625 & 3.00 \\"
    assert rows[5] == r"naclip(std=4.0) & \textbf{45.00} & 20.00 & \textbf{32.50} & 9.000 & 2.50 \\"
    unknown = made("voc20", "m_1", 50, seconds=0, peak=0)
    unknown = EvaluationResult(**{**vars(unknown), "records": unknown.records[2:]})
    assert r"m\_1 & \textbf{25.00} & -- & -- \\" in Comparison([unknown, RUNS[0]]).latex()
    unknown = EvaluationResult(**{**vars(made("voc21", "csa", 50)), "records": unknown.records})
    assert "& 4.625 & 2.50" in Comparison([unknown, RUNS[0]]).latex(), "of the benchmark where it is known"
    holes = Comparison(RUNS[:3]).latex()
    assert "naclip(std=4.0) & \\textbf{45.00} & -- & -- & 9.000 & 2.50" in holes


def test_csv_has_full_precision():
    rows = list(csv.DictReader(io.StringIO(Comparison(RUNS).csv())))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 4
    assert float(rows[0]["miou"]) == RUNS[0].miou * 100 and rows[0]["published"].startswith("81.54")
    assert (rows[0]["seconds_per_picture"], rows[0]["peak_memory_bytes"]) == ("4.625", "2500000000")
    assert rows[3]["peak_memory_bytes"] == "" and rows[1]["published"] == ""


def test_all_forms_are_written(tmp_path):
    written = Comparison(RUNS, [("ade20k", "not there")]).write(tmp_path)
    assert [path.name for path in written] == ["table.md", "table.csv", "table.tex", "table.json"]
    text = (tmp_path / "table.md").read_text()
    assert "| voc20 | csa | 9.50 | 81.54 (SCLIP); 80.4 (SCLIP) | 19.00 | 3 | 4.625 | 2.50 GB |" in text
    assert text.splitlines()[1].count("---") == 8 and "| ade20k | - | - | - | - | not there | - | - |" in text
    said = json.loads((tmp_path / "table.json").read_text())
    assert said["missing"] == {"ade20k": "not there"} and said["runs"][0]["seconds_a_picture"] == 4.625


def test_time_and_memory_are_those_of_the_model_and_outlive_a_resume(tmp_path):
    data = demo_set(4)

    def predict(pictures):
        held = np.ones(30_000_000)  # 240 MB for a moment
        held[::1000] = 2
        return [np.zeros((p.height, p.width), int) for p in pictures]

    first = evaluate(data, predict, output=tmp_path, batch=2)
    assert 0.005 < first.seconds_a_picture < 5
    again = evaluate(data, predict, output=tmp_path, batch=2)
    assert again.computed == 0 and again.seconds_a_picture == first.seconds_a_picture
    assert again.peak_memory == first.peak_memory
    peak = PeakMemory(None)
    if peak.read():  # Linux
        quiet = evaluate(data, lambda pictures: [np.zeros((p.height, p.width), int) for p in pictures])
        assert first.peak_memory - quiet.peak_memory > 150_000_000


def test_memory_that_no_system_tells_is_unknown(monkeypatch, tmp_path):
    from sclip_plugin.evaluation import cost

    monkeypatch.setattr(cost, "Path", lambda *parts: tmp_path / "nowhere")
    assert PeakMemory(None).read() == 0


@pytest.mark.skipif(not __import__("torch").cuda.is_available(), reason="no CUDA here")
def test_memory_of_a_gpu():
    import torch

    peak = PeakMemory(torch.device("cuda"))
    torch.empty(50_000_000, device="cuda")
    assert peak.read() >= 200_000_000
