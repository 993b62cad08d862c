"""Every surface sees a turned picture upright: what it makes of it is what it makes of the same as an upright PNG."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from outside_models import transformers_model
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.anomaly import AnomalyDetector
from sclip_plugin.cli.program import app
from sclip_plugin.evaluation.checking import check_dataset
from sclip_plugin.evaluation.runner import evaluate
from sclip_plugin.evaluation.sets import folder_set
from sclip_plugin.imaging.pictures import read_picture
from sclip_plugin.memory import MemoryStore
from sclip_plugin.protocols.benchmarks import Benchmark

from . import turned

LABELS = ["cat", "grass", "sky"]


@pytest.fixture(scope="module")
def seg():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain", window=0)


@pytest.fixture(scope="module", params=turned.OPTIONS)
def folders(request, tmp_path_factory):
    """Eight turned files of a format, and the same pictures as upright PNGs of the same stems."""
    if not turned.writable(request.param):
        pytest.skip(f"{request.param.upper()}: pillow-heif is not installed")
    root = tmp_path_factory.mktemp(request.param)
    given, upright = root / "given", root / "upright"
    given.mkdir()
    upright.mkdir()
    for orientation in turned.STORED:
        path, pixels = turned.write(given, request.param, orientation, turned.scene())
        Image.fromarray(pixels).save(upright / f"{path.stem}.png")
    return given, upright


@pytest.fixture
def pairs(folders):
    """(turned file, upright PNG), eight of them."""
    given, upright = folders
    return [(path, upright / f"{path.stem}.png") for path in sorted(given.iterdir())]


@pytest.fixture(scope="module")
def expected(seg):
    """The segmenter's answer to an upright PNG; the same one for the same file."""
    answers = {}

    def answer(path, **changes):
        key = path.read_bytes(), str(changes)
        if key not in answers:
            answers[key] = seg(path, LABELS, **changes)
        return answers[key]

    return answer


@pytest.fixture
def run(monkeypatch, tmp_path, seg):
    """A command, with the one model."""

    def seg_of(settings):
        return seg if settings.get("masks") is None else sp.Segmenter.from_pretrained("demo", masks="slic")

    for module in ("segment", "compare", "label", "memory"):
        monkeypatch.setattr(f"sclip_plugin.cli.{module}.make_segmenter", lambda *given, **settings: seg_of(settings))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def same(one, other):
    assert one.shape == other.shape
    np.testing.assert_array_equal(one, other)


FORMS = {
    "path": lambda path: path,
    "open file": lambda path: path.open("rb"),
    "lazy": lambda path: Image.open(path),
    "copy": lambda path: Image.open(path).copy(),
    "converted": lambda path: Image.open(path).convert("RGB"),
    "read": read_picture,
    "read twice": lambda path: read_picture(read_picture(path)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_door(pairs, form):
    for path, upright in pairs:
        picture = read_picture(FORMS[form](path))
        same(np.asarray(picture), np.asarray(Image.open(upright)))
        assert not picture.info and picture.getexif().get(turned.ORIENTATION) is None
        assert read_picture(picture).tobytes() == picture.tobytes()


SEGMENTERS = {
    "a path": lambda seg, path: seg(path, LABELS),
    "a lazy picture": lambda seg, path: seg(Image.open(path), LABELS),
    "a result's picture": lambda seg, path: seg(seg(path, LABELS).picture, LABELS),
    "encoded": lambda seg, path: seg.encode(path, dtype=torch.float32).segment(LABELS),
    "a stream": lambda seg, path: next(iter(seg.stream(iter([path]), LABELS))),
    "prepared": lambda seg, path: seg(seg.prepare(path), LABELS),
    "refined": lambda seg, path: seg(path, LABELS, refine="pamr(steps=2)"),
}


@pytest.mark.parametrize("way", SEGMENTERS)
def test_segmenter(seg, expected, pairs, way):
    for path, upright in pairs:
        result, right = (
            SEGMENTERS[way](seg, path),
            expected(upright, refine="pamr(steps=2)" if way == "refined" else False),
        )
        same(result.label_map, right.label_map)
        assert result.picture.tobytes() == right.picture.tobytes()


def test_a_label_map_with_its_picture(pairs):
    for path, upright in pairs:
        with Image.open(upright) as picture:
            label_map = np.zeros(picture.size[::-1], int)
        result = sp.Segmentation(LABELS, label_map, Image.open(path).convert("RGB"))
        same(np.asarray(result.picture), np.asarray(Image.open(upright)))


def test_sclip_segment_with_its_exports(run, folders, tmp_path):
    told = []
    for folder in folders:
        out = tmp_path / folder.name
        run("segment", folder, "-l", ",".join(LABELS), "-o", out, "--format", "coco,yolo,labelme", "-q")
        maps = {path.stem: np.asarray(Image.open(path)) for path in out.glob("*.labels.png")}
        coco = json.loads((out / "coco/annotations.json").read_text())
        outlines = {path.stem: path.read_text() for path in out.glob("yolo/**/*-?.txt")}
        sizes = [(image["width"], image["height"]) for image in coco["images"]]
        told.append((maps, outlines, sizes, [a["segmentation"] for a in coco["annotations"]]))
    assert len(told[0][0]) == 8 and told[0][1]
    assert {size for size in told[0][2]} == {(48, 64)}
    for name, label_map in told[1][0].items():
        same(told[0][0][name], label_map)
    assert told[0][1:] == told[1][1:]


def test_sclip_compare_and_label(run, pairs, tmp_path):
    for pair in pairs:
        if pair[0].suffix != ".tif" and "-6." not in pair[0].name:
            continue  # a command for each picture takes its time
        shares, masks = [], []
        for path in pair:
            said = run("compare", path, "-l", ",".join(LABELS), "--methods", "csa", "-o", tmp_path / "a.png", "--json")
            shares.append([row["areas"] for row in json.loads(said)["methods"]])
            run("label", path, "--masks", "slic", "-l", ",".join(LABELS), "-o", tmp_path)
            masks.append(json.loads((tmp_path / f"{path.stem}.masks.json").read_text())["regions"])
        assert shares[0] == shares[1] and masks[0] == masks[1]


def test_an_index(seg, folders, tmp_path):
    found = []
    for folder in folders:
        hits = sp.Index.build(seg, folder, tmp_path / folder.name).search("cat", top=8)
        found.append({hit.path.rpartition("/")[2].partition(".")[0]: (hit.box, hit.mask(), hit.score) for hit in hits})
    assert len(found[0]) == 8 and found[0].keys() == found[1].keys()
    for name, (box, mask, score) in found[1].items():
        assert found[0][name][0] == box and found[0][name][2] == pytest.approx(score, abs=1e-6)
        same(found[0][name][1], mask)


def test_sclip_memory_build(run, folders, tmp_path):
    transformers_model("dino16").save_pretrained(tmp_path / "dino")
    for folder in folders:
        run(
            "memory",
            "build",
            folder,
            "-o",
            tmp_path / folder.name,
            "--guide",
            tmp_path / "dino",
            "--masks",
            "slic",
            "-q",
        )
    ours, expected = (MemoryStore(tmp_path / folder.name).pictures() for folder in folders)
    assert ours == expected and ours


def test_anomaly(pairs):
    detector = AnomalyDetector.from_pretrained("demo", thing="metal nut")
    for path, upright in pairs:
        same(detector(path).heat, detector(upright).heat)


def benchmark_of(suffix):
    return Benchmark(
        name="turned", title="Turned", classes=tuple((name,) for name in LABELS), images=f"given/*.{suffix}",
        masks="masks/*.png",
    )  # fmt: skip


def test_evaluation(seg, expected, pairs, folders, tmp_path):
    """Masks that were drawn on the upright picture, and are what the model sees: all of it is right."""
    root = folders[0].parent
    (root / "masks").mkdir(exist_ok=True)
    for path, upright in pairs:
        Image.fromarray(expected(upright).label_map.astype(np.uint8)).save(root / "masks" / f"{path.stem}.png")
    data = folder_set(benchmark_of(pairs[0][0].suffix[1:]), root)
    result = evaluate(data, lambda pictures: [seg(picture, LABELS).label_map for picture in pictures])
    assert len(result.records) == 8 and result.totals.aacc == 1
    report = check_dataset(data.benchmark, root)
    assert report.pictures == 8 and {problem.kind for problem in report.problems} <= {
        "picture turned by EXIF, mask not"
    }


def test_pipeline(pairs):
    from transformers import pipeline

    pipe = pipeline("zero-shot-segmentation", model=str(sp.demo_model()), templates="plain")
    for path, upright in pairs:
        expected = pipe(str(upright), candidate_labels=LABELS, output="semantic")["label_map"]
        for form in (str(path), Image.open(path), base64.b64encode(path.read_bytes()).decode()):
            same(pipe(form, candidate_labels=LABELS, output="semantic")["label_map"], expected)


def test_server_and_page(seg, expected, pairs):
    testclient = pytest.importorskip("fastapi.testclient")
    from sclip_plugin.integrations.serve import make_server
    from sclip_plugin.integrations.serve.visitors import Limits, picture_of

    with testclient.TestClient(make_server(seg)) as client:
        for pair in pairs:
            answers = [
                client.post("/segment", files={"picture": ("a", path.read_bytes())}, data={"labels": ",".join(LABELS)})
                for path in pair
            ]
            assert [answer.status_code for answer in answers] == [200, 200]
            ours, upright = (answer.json() for answer in answers)
            assert ours["size"] == [64, 48] and ours["labels"] == upright["labels"]
            shown = picture_of(pair[0].read_bytes(), Limits())
            same(np.asarray(shown), np.asarray(Image.open(pair[1])))
            same(seg(shown, LABELS).label_map, expected(pair[1]).label_map)


def test_rays_worker(seg, pairs):
    pytest.importorskip("ray.data")
    from sclip_plugin.integrations.ray.rows import Rows, Work
    from sclip_plugin.integrations.ray.sources import Item

    rows = Rows(Work.of(seg, "cpu", LABELS, model="demo", preset=None, dtype=None))
    ours, expected = (
        rows([Item(str(path), None, path.stem, None) for path in paths]) for paths in zip(*pairs, strict=True)
    )
    assert all(row["error"] is None for row in ours)
    assert [(row["width"], row["height"]) for row in ours] == [(48, 64)] * 8
    assert [row["segments"] for row in ours] == [row["segments"] for row in expected]


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_in_xmp_alone(orientation):
    """As editors leave it in a PNG."""
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'
    file = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(turned.STORED[orientation](turned.scene())))
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    stored.save(file, "PNG", pnginfo=info)
    picture = read_picture(read_picture(file))
    same(np.asarray(picture), turned.scene())
