"""A SAM 3 on every surface: what the segmenter gives, or a refusal in a sentence."""

import io
import json
import sys

import numpy as np
import pytest
import sam3_golden
from evaluation.layouts import write_dataset
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import SclipError
from sclip_plugin.protocols import load_benchmark

LABELS = ["cat", "crab", "grass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sam3_golden.saved(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def segmenter(folder):
    return sp.Segmenter.from_pretrained(folder, device="cpu", method="sam3(conf=0.1)")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    sp.draw_scene(seed=5).picture.save(path)
    return path


@pytest.fixture(scope="module")
def expected(segmenter, file):
    return segmenter(file, LABELS)


def sclip(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        program.run()
    return stop.value.code or 0


def indices_in(path):
    indices = np.asarray(Image.open(path)).astype(int)
    return np.where(indices == 255, -1, indices)


def test_the_scene_tells_labels_apart(expected):
    assert len(np.unique(expected.label_map)) == 3 and len(expected.instances()) > 3


def test_the_command_line(folder, file, expected, tmp_path, monkeypatch):
    arguments = ["-l", ",".join(LABELS), "-m", folder, "--method", "sam3(conf=0.1)", "-o", tmp_path, "--format", "csv"]
    assert sclip(monkeypatch, "segment", file, *arguments, "--present", 0) == 0
    np.testing.assert_array_equal(indices_in(tmp_path / "scene.labels.png"), expected.label_map)
    said = json.loads((tmp_path / "scene.json").read_text())
    assert said["settings"]["method"] == "sam3(conf=0.1)"
    assert {e["label"]: e["presence"] for e in said["labels"]} == pytest.approx(expected.presence, abs=1e-4)
    assert sclip(monkeypatch, "segment", file, *arguments, "--resume") == 0


def test_the_pipeline(folder, file, expected):
    pipe = sam3_golden.transformers().pipeline("zero-shot-segmentation", model=folder, device="cpu")
    options = {"candidate_labels": LABELS, "method": "sam3(conf=0.1)"}
    found = pipe(str(file), output="semantic", **options)
    np.testing.assert_array_equal(found["label_map"], expected.label_map)
    assert {entry["label"] for entry in pipe(str(file), **options)} <= set(LABELS)
    with pytest.raises(SclipError):
        pipe(str(file), candidate_labels=LABELS, method="csa")


def test_the_service(segmenter, file, expected):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient
    from sclip_plugin.integrations.serve.server import make_server

    with TestClient(make_server(segmenter)) as client, file.open("rb") as content:
        answer = client.post("/segment", files={"picture": content}, data={"labels": ",".join(LABELS)})
    labels = {entry["label"]: entry for entry in answer.json()["labels"]}
    assert {name: entry["area"] for name, entry in labels.items()} == pytest.approx(expected.areas(), abs=0.01)
    assert {name: entry["presence"] for name, entry in labels.items()} == pytest.approx(expected.presence, abs=0.01)


def test_the_page(segmenter, file, expected):
    pytest.importorskip("gradio")
    from sclip_plugin.integrations.app.page import Page

    page = Page(segmenter, "sam3")
    assert page.methods == ("sam3",)
    found = page.segment(Image.open(file).convert("RGB"), LABELS, {})
    assert (found.label_map == expected.label_map).mean() > 0.99  # a page keeps half precision


def test_a_row_on_ray(folder, file, expected):
    pytest.importorskip("pycocotools")
    from sclip_plugin.integrations.ray.rows import Rows, Work

    own = sp.Segmenter.from_pretrained(folder, device="cpu", method="sam3(conf=0.1)")
    rows = Rows(Work.of(own, "cpu", LABELS, model=folder, preset=None, dtype=None))
    np.testing.assert_array_equal(rows.segmenter(file, LABELS).label_map, expected.label_map)


def test_an_evaluation(folder, tmp_path, monkeypatch):
    write_dataset(load_benchmark("voc21"), tmp_path / "voc", pictures=2)
    own = ["--method", "sam3", "-m", folder, "-o", tmp_path / "out"]
    assert sclip(monkeypatch, "eval", "voc21", "--data", tmp_path / "voc", *own) == 0
    (results,) = tmp_path.rglob("results.json")
    assert json.loads(results.read_text())["settings"]["method"] == "sam3(queries=30)"


def test_a_video(segmenter, file, tmp_path):
    pytest.importorskip("av")
    from sclip_plugin.video.segmenting import segment_video

    frames = [np.asarray(Image.open(file).convert("RGB"))] * 3
    path = tmp_path / "film.mp4"
    _film(path, frames)
    results = [result for _, result in segment_video(segmenter, path, LABELS, fps=5, smoothing=0.5)]
    assert len(results) == 3 and all(set(result.presence) == set(LABELS) for result in results)


def _film(path, frames):
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode())


def test_a_geotiff(segmenter, file, expected, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from sclip_plugin.segment.geotiff import segment_geotiff

    values = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", count=3, height=values.shape[1], width=values.shape[2], dtype="uint8",
        crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000), photometric="rgb",
    ) as out:  # fmt: skip
        out.write(values)
    segment_geotiff(segmenter, tmp_path / "in.tif", tmp_path / "out.tif", LABELS)
    with rasterio.open(tmp_path / "out.tif") as out:
        np.testing.assert_array_equal(out.read(1), expected.label_map)


REFUSED = [
    ("index", "photos", "--out", "index"),
    ("tune", "masks", "photos", "--labels", "cat, dog", "--out", "mine.safetensors"),
    ("label", "photos/scene0.png", "--masks", "slic", "-l", "cat"),
    ("presence", "build", "photos", "--out", "p.safetensors"),
    ("segment", "photos", "-l", "cat", "--method", "csa"),
    ("segment", "photos", "-l", "cat", "--background"),
    ("eval", "demo", "--scenes", "1", "--method", "csa"),
    ("compare", "photos/scene0.png", "-l", "cat"),
]


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda arguments: " ".join(arguments[:2]))
def test_commands_that_need_features_say_so_and_write_nothing(arguments, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for seed in range(5):
        scene = sp.draw_scene(seed=seed)
        scene.picture.save(tmp_path / "photos" / f"scene{seed}.png")
        Image.fromarray((scene.label_map % 2).astype(np.uint8)).save(tmp_path / "masks" / f"scene{seed}.png")
    assert sclip(monkeypatch, *arguments, "-m", folder) in (1, 2)
    said = capsys.readouterr().err
    assert "SAM 3" in said and "Traceback" not in said
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "out" / "scene0.json").exists()


def test_a_picture_that_is_no_picture_is_refused_by_the_service(segmenter):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient
    from sclip_plugin.integrations.serve.server import make_server

    with TestClient(make_server(segmenter)) as client:
        answer = client.post("/segment", files={"picture": io.BytesIO(b"no")}, data={"labels": "cat"})
        assert answer.status_code == 422
