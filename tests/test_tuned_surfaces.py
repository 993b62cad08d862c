"""Labels that were tuned give the same on every surface; another model's or other features' are refused there."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import LabelError
from sclip_plugin.text.tuned import Tuned


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def scene():
    return sp.draw_scene(seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, segmenter, scene):
    """A picture, and what was tuned by it with two names exchanged, so that words alone give something else."""
    folder = tmp_path_factory.mktemp("tuned")
    scene.picture.save(folder / "scene.png")
    labels = [*scene.labels[1:], scene.labels[0]]
    segmenter.tune([scene.picture], [scene.label_map], labels).save(folder / "mine.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(segmenter, folder, scene):
    tuned = Tuned.load(folder / "mine.safetensors")
    label_map = segmenter(folder / "scene.png", tuned).label_map
    assert not np.array_equal(label_map, segmenter(folder / "scene.png", list(tuned.labels)).label_map)
    return tuned, label_map


def sclip(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        program.run()
    return stop.value.code or 0


def test_segment_and_resume(folder, expected, tmp_path, monkeypatch, capsys):
    command = ["segment", folder / "scene.png", "-l", f"@{folder / 'mine.safetensors'}", "-m", "demo", "-o", tmp_path]
    assert sclip(monkeypatch, *command) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scene.labels.png")), expected[1])
    assert json.loads((tmp_path / "scene.json").read_text())["settings"]["labels"] == list(expected[0].labels)
    assert sclip(monkeypatch, *command, "--resume") == 0
    assert "1 skipped" in capsys.readouterr().err


def test_other_settings_are_refused(folder, tmp_path, monkeypatch, capsys):
    labels = ["-l", f"@{folder / 'mine.safetensors'}", "-m", "demo"]
    code = sclip(monkeypatch, "segment", folder / "scene.png", *labels, "-o", tmp_path, "--window", "64")
    assert code == 2 and "window is 64, and was 96" in capsys.readouterr().err


def test_compare(folder, tmp_path, monkeypatch, capsys):
    command = ["compare", folder / "scene.png", "-l", f"@{folder / 'mine.safetensors'}", "-m", "demo", "--json"]
    assert sclip(monkeypatch, *command, "--methods", "csa", "-o", tmp_path / "a.png") == 0
    assert json.loads(capsys.readouterr().out)["methods"][0]["method"] == "csa"
    assert sclip(monkeypatch, *command, "--methods", "naclip", "-o", tmp_path / "a.png") == 2
    assert "method is NACLIP" in capsys.readouterr().err


def test_the_pipeline(folder, expected):
    pipeline = pytest.importorskip("transformers").pipeline
    pipe = pipeline("zero-shot-segmentation", model=str(sp.demo_model()), device="cpu")
    found = pipe(str(folder / "scene.png"), candidate_labels=expected[0], output="semantic")
    np.testing.assert_array_equal(found["label_map"], expected[1])


def test_a_row_on_ray(folder, expected, segmenter):
    pytest.importorskip("pycocotools")
    import pickle

    from sclip_plugin.integrations.ray.rows import Rows, Work

    work = Work.of(segmenter, "cpu", expected[0], model="demo", preset=None, dtype=None)
    rows = Rows(pickle.loads(pickle.dumps(work)))
    np.testing.assert_array_equal(rows.segmenter(folder / "scene.png", rows.labels).label_map, expected[1])


def test_a_video(folder, expected, segmenter, tmp_path):
    pytest.importorskip("av")
    from sclip_plugin.video import segment_video
    from sclip_plugin.video.writing import write_video

    with write_video(tmp_path / "a.mp4", 1) as film:
        film.add(Image.open(folder / "scene.png"))
    ((_, result),) = segment_video(segmenter, tmp_path / "a.mp4", expected[0], fps=1)
    assert (result.label_map == expected[1]).mean() > 0.95
    best = sp.search_video(segmenter, tmp_path / "a.mp4", expected[0].only([expected[0].labels[:1]]))[0]
    assert best.hit.score > expected[0].constants[0]


def test_an_index(folder, expected, segmenter, tmp_path, monkeypatch, capsys):
    """A region's score is its row's product, and the constant."""
    pytest.importorskip("faiss")
    index = sp.Index.build(segmenter, folder, tmp_path / "index")
    tuned = expected[0].only([expected[0].labels[:1]])
    (hit,) = index.search(tuned)
    folder_of = tmp_path / "index"
    labels = f"@{folder / 'mine.safetensors'}"
    assert sclip(monkeypatch, "search", folder_of, tuned.labels[0], "-l", labels, "-m", "demo", "--json") == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(hit.score, abs=1e-4)
    row, constant = dict(tuned.vectors)[0], tuned.constants[0]
    (plain,) = index.search({"x": row / np.linalg.norm(row)})
    assert hit.score == pytest.approx(plain.score * np.linalg.norm(row) + constant, abs=1e-4)
    other = sp.Segmenter.from_pretrained("demo", device="cpu", window=64)
    with pytest.raises(LabelError, match="window"):
        sp.Index.build(other, folder, tmp_path / "other").search(tuned)


class TestTaught:
    """Words mean what was learnt wherever they are asked: the server's, the page's and the evaluation's way."""

    @pytest.fixture
    def taught(self, expected):
        segmenter = sp.Segmenter.from_pretrained("demo", device="cpu")
        segmenter.taught = expected[0]
        return segmenter

    def test_words_that_are_known(self, taught, folder, expected):
        picture, labels = folder / "scene.png", list(expected[0].labels)
        np.testing.assert_array_equal(taught(picture, labels).label_map, expected[1])
        named = taught(picture, [["thing", labels[0]], *labels[1:]])
        assert named.labels[0] == "thing"
        np.testing.assert_array_equal(named.label_map, expected[1])
        mixed, some = taught.text_embeddings([labels[0], ["comb", "brush"]])
        words = sp.Segmenter.from_pretrained("demo", device="cpu").text_embeddings(["comb", "brush"])[1]
        np.testing.assert_allclose(some[1:], words, atol=1e-6)
        assert mixed.constants == (expected[0].constants[0], 0.0)
        np.testing.assert_allclose(taught.text_embeddings(["comb", "brush"])[1], words, atol=1e-6)

    def test_over_http(self, taught, folder, expected):
        TestClient = pytest.importorskip("fastapi.testclient").TestClient
        from sclip_plugin.integrations.serve import make_server

        with TestClient(make_server(taught)) as client, (folder / "scene.png").open("rb") as file:
            labels = {"labels": ",".join(expected[0].labels), "mask_format": "none"}
            answer = client.post("/segment", files={"picture": file}, data=labels)
        areas = {entry["label"]: entry["area"] for entry in answer.json()["labels"]}
        counts = {name: float((expected[1] == i).mean()) for i, name in enumerate(expected[0].labels)}
        assert areas == pytest.approx(counts, abs=1e-4)

    def test_on_the_page(self, taught, folder, expected):
        pytest.importorskip("gradio")
        from sclip_plugin.integrations.app.page import Page

        picture = Image.open(folder / "scene.png").convert("RGB")
        found = Page(taught, "demo").segment(picture, list(expected[0].labels), {})
        np.testing.assert_array_equal(found.label_map, expected[1])

    def test_an_evaluation(self, folder, tmp_path, monkeypatch, capsys):
        runs = {}
        for name, more in {"words": [], "tuned": ["-l", f"@{folder / 'mine.safetensors'}"]}.items():
            assert sclip(monkeypatch, "eval", "demo", "--scenes", 2, "-o", tmp_path / name, *more) == 0
            (file,) = (tmp_path / name).rglob("results.json")
            runs[name] = json.loads(file.read_text())
        assert runs["words"]["settings"]["identity"] != runs["tuned"]["settings"]["identity"]

    @pytest.mark.parametrize("command", [["serve"], ["app"], ["eval", "demo", "--scenes", 1]])
    def test_only_files_of_tune(self, command, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        more = ["-m", "demo"] if command[0] != "eval" else []
        assert sclip(monkeypatch, *command, "-l", "cat, dog", *more) == 2
        assert "expected @FILE.safetensors" in capsys.readouterr().err


def test_detectron2_reads_the_file(folder, expected):
    pytest.importorskip("detectron2")
    from sclip_plugin.integrations.detectron2.config import read_classes

    assert read_classes(folder / "mine.safetensors").identity() == expected[0].identity()
