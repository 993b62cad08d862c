"""What scores mean: bins against plain sums, the same after a resume, and what reports say of it."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.cli.evaluate import eval_app
from sclip_plugin.draw.reliability import RIGHT, reliability
from sclip_plugin.evaluation.calibration import EVERY, Answer, Calibration, calibrations, sampled
from sclip_plugin.evaluation.prediction import SegmenterPrediction
from sclip_plugin.evaluation.report import to_markdown, write_report
from sclip_plugin.evaluation.runner import evaluate
from sclip_plugin.evaluation.sets import demo_set
from sclip_plugin.protocols.presets import preset_for_method

DATA = demo_set(6)


@pytest.fixture(scope="module")
def predict():
    seg = sp.Segmenter.from_pretrained("demo")
    return SegmenterPrediction(seg, preset_for_method(DATA.benchmark, "csa"), {"present": True})


def test_figures_are_those_of_plain_sums():
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.random(500), [0.5, 1.0, 0.0, 0.1]])
    right = generator.random(504) < scores
    seen = Calibration()
    seen.add(np.append(scores[:300], np.nan), np.append(right[:300], True))
    seen.add(scores[300:], right[300:])
    called = scores >= 0.5
    assert seen.count == 504
    assert seen.precision == pytest.approx((called & right).sum() / called.sum())
    assert seen.recall == pytest.approx((called & right).sum() / right.sum())
    assert seen.brier == pytest.approx(np.mean((scores - right) ** 2))
    bins = np.minimum((scores * 10 + 1e-9).astype(int), 9)
    gaps = [abs(scores[bins == n].sum() - right[bins == n].sum()) for n in range(10)]
    assert seen.gap == pytest.approx(sum(gaps) / 504)
    parts = seen.to_dict()["bins"]
    assert parts[3]["right"] == pytest.approx(right[bins == 3].mean())
    assert Calibration().to_dict()["precision"] is None


def test_pixels_are_the_middles_of_blocks():
    values = np.arange(16 * 24).reshape(16, 24)
    assert sampled(values).tolist() == [[4 * 24 + 4, 4 * 24 + 12, 4 * 24 + 20], [12 * 24 + c for c in (4, 12, 20)]]
    assert sampled(np.zeros((3, 20))).shape == (1, 20 // EVERY)


def test_pixels_without_label_or_truth_are_left_out_and_absent_classes_are_not_there():
    labels, target = np.array([[0, 1, -1, 1]]).repeat(8, 1).repeat(8, 0), np.array([[0, 0, 0, 255]])
    target = target.repeat(8, 1).repeat(8, 0)
    confidence = np.array([[0.9, 0.8, 0.7, 0.6]])
    found = calibrations(Answer(labels, np.array([0.7, 0.2, np.nan]), confidence), target, 255)
    assert found["pixels"].count == 2 and found["pixels"].precision == 0.5
    assert found["presence"].count == 2 and found["presence"].recall == 1 and found["presence"].precision == 1
    ignored = calibrations(Answer(labels, np.array([0.7] * 256)), target, 255)["presence"]
    assert ignored.table[:, 2].sum() == 1, "a class that only ignored pixels show is not there"
    assert calibrations(Answer(labels), target, 255) == {}


def test_scores_are_those_of_the_label_map(predict):
    picture, _ = DATA.load(DATA.names[0])
    result = predict.segmenter(picture, predict.labels, predict.chosen)
    answer = Answer.of(result)
    at = sampled(np.arange(result.label_map.size).reshape(result.size))
    own = np.take_along_axis(result.scores, np.maximum(result.label_map, 0)[None].astype(int), 0)[0].ravel()[at]
    assert np.abs(answer.confidence - own).mean() < 0.01, "at half-pixel places, not the very pixels"
    assert answer.presence[result.labels.index("snow")] == result.presence["snow"]


def test_a_resumed_run_says_the_same_in_every_report(predict, tmp_path):
    whole = evaluate(DATA, predict, output=tmp_path / "whole")
    evaluate(DATA, predict, output=tmp_path / "parts", limit=2)
    parts = evaluate(DATA, predict, output=tmp_path / "parts")
    assert parts.computed == 4
    for kind in ("presence", "pixels"):
        np.testing.assert_array_equal(whole.calibration[kind].table, parts.calibration[kind].table)
    assert whole.calibration["presence"].count == 6 * 50 and whole.calibration["pixels"].count == 6 * 24 * 18
    assert whole.calibration["presence"].recall > 0.9
    assert {path.name for path in write_report(whole, tmp_path)} >= {"reliability.png", "results.md"}
    assert "**Presence of words**: precision" in to_markdown(whole)
    assert json.loads((tmp_path / "results.json").read_text())["calibration"]["pixels"]["brier"] < 0.2
    assert Image.open(tmp_path / "reliability.png").width == 2 * 510
    plain = evaluate(DATA, lambda pictures: predict(pictures), output=tmp_path / "plain")
    assert plain.calibration == {} and plain.miou == whole.miou
    assert len(write_report(plain, tmp_path / "plain")) == 2


def test_a_bar_is_as_tall_as_its_share():
    drawn = np.asarray(reliability([("a", "b", np.array([[4, 0, 2], [4, 4, 4]]))]))
    tall = [(np.abs(drawn[76:473, x].astype(int) - RIGHT).sum(axis=1) < 10).sum() for x in (150, 350)]
    assert abs(tall[0] - 200) < 8 and tall[1] > 385


def test_the_command_learns_a_null_once_where_none_came(tmp_path):
    def run(*more):
        asked = ["demo", "--scenes", "6", "--method", "naclip", "--present", "yes", "-o", str(tmp_path), *more]
        return CliRunner().invoke(eval_app, asked)

    first, again = run(), run()
    assert first.exit_code == 0, first.output
    assert "learned from 6 pictures" in first.stderr and "learned" not in again.stderr
    assert "presence of words: precision" in first.stdout and "(0 now" in again.stdout
    assert (tmp_path / "demo" / "demo-naclip" / "presence.safetensors").is_file()
    wrong = CliRunner().invoke(eval_app, ["mvtec", "--present", "yes"])
    assert "not with mvtec" in str(wrong.exception)
