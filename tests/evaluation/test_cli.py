"""``sclip eval`` and ``sclip convert`` as people type them, with a tiny model of random weights."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sclip_plugin.cli.convert import convert_app
from sclip_plugin.cli.evaluate import eval_app
from sclip_plugin.protocols import load_benchmark

from .layouts import REAL_DATA, SHARED_DATA, fill, write_dataset

QUICK = ["--set", "templates=plain", "--set", "window=112", "--set", "stride=56", "--set", "resize_short_side=112"]


@pytest.fixture
def invoke(tiny_segmenter, monkeypatch, tmp_path):
    from sclip_plugin.segment.segmenter import Segmenter

    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, name, **options: tiny_segmenter))

    def run(*arguments, app=eval_app):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
        if result.exception and not isinstance(result.exception, SystemExit):
            result.stderr_text = f"{type(result.exception).__name__}: {result.exception}"
        else:
            result.stderr_text = result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_dataset(load_benchmark("voc21"), root / "VOCdevkit" / "VOC2012", 4)
    return root


def test_a_benchmark(invoke, voc, tmp_path):
    folder = voc / "VOCdevkit" / "VOC2012"
    run = ("voc21", "--data", folder, "--model", "my/clip", "--out", tmp_path, *QUICK)
    result = invoke(*run, "--save-maps", "--worst", 2)
    assert result.exit_code == 0, result.stderr_text
    assert "voc21-csa: mIoU" in result.stdout and "59.63 (SCLIP)" in result.stdout and "pottedplant" in result.stdout
    out = tmp_path / "my-clip" / "voc21-csa"
    content = json.loads((out / "results.json").read_text())
    assert content["pictures"] == 4 and content["computed"] == 4
    assert content["settings"]["model"] == "my/clip" and content["settings"]["window"] == 112
    assert content["settings"]["steps"] == ["benchmark(prob=0.1, area=0.1)"]  # of the preset
    assert len(list((out / "maps").glob("*.png"))) == 4
    assert Image.open(out / "worst.png").width > 300
    again = invoke(*run)
    assert again.exit_code == 0 and "(0 now" in again.stdout
    assert json.loads((out / "results.json").read_text())["miou"] == content["miou"]
    other = invoke(*run, "--set", "logit_scale=50")
    assert other.exit_code != 0 and "logit_scale was 65" in other.stderr_text
    assert invoke(*run, "--set", "logit_scale=50", "--no-resume").exit_code == 0


@pytest.mark.parametrize("name", REAL_DATA)
def test_real_pictures(invoke, tmp_path, name):
    root = SHARED_DATA / REAL_DATA[name]
    if not root.is_dir():
        pytest.skip(f"the sample pictures of {name} (shared/data) are not beside this checkout")
    result = invoke(name, "--data", root, "--out", tmp_path, "--limit", 2, *QUICK)
    assert result.exit_code == 0, result.stderr_text
    content = json.loads((tmp_path / "openai-clip-vit-base-patch16" / f"{name}-csa" / "results.json").read_text())
    assert content["pictures"] == 2 and 0 < content["aacc"] < 100


def test_a_voc_folder_is_checked_for_what_is_in_it(invoke, voc, tmp_path):
    folder = voc / "VOCdevkit" / "VOC2012"
    result = invoke("--check", folder)
    assert result.exit_code == 0, result.stderr
    assert "voc21: 4 pictures" in result.stdout and "voc20: 4 pictures" in result.stdout
    assert "not there, or without masks: context60" in result.stderr


def test_a_folder_that_cannot_be_written_is_said_first(invoke, voc, tmp_path):
    (tmp_path / "file").write_text("x")
    result = invoke("voc21", "--data", voc / "VOCdevkit" / "VOC2012", "--out", tmp_path / "file", *QUICK)
    assert "can't write into the folder" in result.stderr_text


def test_methods_are_compared_in_a_table(invoke, voc, tmp_path):
    result = invoke(
        "voc20", "--data", voc / "VOCdevkit" / "VOC2012", "--out", tmp_path,
        "--method", "csa,naclip(std=4),maskclip", "--set", "refine=false", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr_text
    for row in ("| voc20 | csa |", "| voc20 | naclip(std=4.0) |", "| voc20 | maskclip |"):
        assert row in result.stdout
    table = json.loads((tmp_path / "openai-clip-vit-base-patch16" / "table.json").read_text())
    assert [run["settings"]["method"] for run in table["runs"]] == ["csa", "naclip(std=4.0)", "maskclip"]
    assert table["runs"][1]["settings"]["steps"] == ["normalize"]
    assert table["runs"][2]["settings"]["published_as"] == ""


def test_all_runs_what_is_there_and_says_what_is_not(invoke, voc, tmp_path):
    result = invoke("all", "--data", voc, "--out", tmp_path, "--limit", 1, *QUICK)
    assert result.exit_code == 0, result.stderr_text
    assert "| voc21 | csa |" in result.stdout and "| voc20 | csa |" in result.stdout
    assert "| cityscapes | - | - | - | - | not in" in result.stdout
    assert "| average of 2 |" in result.stdout
    table = json.loads((tmp_path / "openai-clip-vit-base-patch16" / "table.json").read_text())
    assert set(table["missing"]) == {"context60", "coco_object", "cityscapes", "context59", "ade20k", "coco_stuff"}


def test_a_data_set_of_ones_own(invoke, tmp_path):
    yaml = tmp_path / "pets.yaml"
    yaml.write_text(
        "name: pets\nimages: pictures/*.jpg\nmasks: labels/*.png\n"
        "classes:\n  - [background, wall, floor]\n  - cat\n  - dog\n"
    )
    write_dataset(load_benchmark(yaml), tmp_path / "pets", 3)
    result = invoke(yaml, "--data", tmp_path / "pets", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.stderr_text
    assert "pets-csa: mIoU" in result.stdout and "background" in result.stdout


def test_the_demo_scenes(invoke, tmp_path):
    result = invoke("demo", "--scenes", 2, "--out", tmp_path, *QUICK)
    assert result.exit_code == 0, result.stderr_text
    content = json.loads((tmp_path / "demo" / "demo-csa" / "results.json").read_text())
    assert content["pictures"] == 2 and content["settings"]["model"] == "demo"


def test_pictures_left_out_are_named_and_the_exit_code_says_so(invoke, tmp_path):
    benchmark = load_benchmark("ade20k")
    names = write_dataset(benchmark, tmp_path / "data", 3)
    mask = tmp_path / "data" / fill(benchmark.masks, names[1])
    mask.write_bytes(mask.read_bytes()[:40])
    result = invoke("ade20k", "--data", tmp_path / "data", "--out", tmp_path, *QUICK)
    assert result.exit_code == 1
    assert f"mask unreadable: {names[1]}" in result.stderr and "over 2 of 2,000 pictures" in result.stdout


class TestChecking:
    def test_one_benchmark(self, invoke, voc):
        result = invoke("voc21", "--check", voc / "VOCdevkit" / "VOC2012")
        assert result.exit_code == 0 and "nothing wrong" in result.stdout and "4 pictures" in result.stdout

    def test_whatever_is_there(self, invoke, voc):
        result = invoke("--check", voc)
        assert result.exit_code == 0
        assert "voc21: 4 pictures" in result.stdout and "voc20: 4 pictures" in result.stdout

    def test_what_is_wrong(self, invoke, tmp_path):
        benchmark = load_benchmark("voc21")
        names = write_dataset(benchmark, tmp_path, 3)
        Image.fromarray(np.full((36, 47), 99, np.uint8)).save(tmp_path / fill(benchmark.masks, names[1]))
        result = invoke("voc21", "--check", tmp_path)
        assert result.exit_code == 1
        assert "1 x labels out of range" in result.stdout and names[1] in result.stdout and "holds 99" in result.stdout

    def test_a_folder_that_holds_none(self, invoke, tmp_path):
        result = invoke("--check", tmp_path)
        assert "holds none of the eight benchmarks" in result.stderr_text and "JPEGImages" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a benchmark"),
        (["voc21"], "needs --data"),
        (["voc22", "--data", "."], "Did you mean 'voc21'"),
        (["voc21", "--data", "absent"], "is not a folder"),
        (["all", "--data", "absent"], "none of the eight"),
        (["demo", "--method", "cas"], "Did you mean 'csa'"),
        (["demo", "--preset", "slip"], "Did you mean 'sclip'"),
        (["demo", "--set", "logit_scale"], "expected NAME=VALUE"),
        (["demo", "--set", "logit_scal=3"], "Did you mean 'logit_scale'"),
    ],
)
def test_mistakes_end_in_a_sentence(invoke, tmp_path, arguments, says):
    result = invoke(*arguments, "--out", tmp_path)
    assert result.exit_code != 0
    assert says in " ".join(result.stderr_text.replace("│", " ").split())


def test_conversions_on_the_command_line(invoke, tmp_path):
    source = tmp_path / "gtFine/val/ulm/ulm_1_gtFine_labelIds.png"
    source.parent.mkdir(parents=True)
    Image.fromarray(np.array([[7, 26]], np.uint8)).save(source)
    result = invoke("cityscapes", tmp_path, app=convert_app)
    assert result.exit_code == 0 and "1 masks written" in result.stdout
    made = np.asarray(Image.open(source.with_name("ulm_1_gtFine_labelTrainIds.png")))
    assert made.tolist() == [[0, 13]]
    assert "1 were there" in invoke("cityscapes", tmp_path, app=convert_app).stdout
    assert "pixel maps" in invoke("coco-stuff", tmp_path, app=convert_app).stderr_text
    assert "pixel maps" in invoke("coco-object", tmp_path, app=convert_app).stderr_text
    assert "trainval_merged.json" in invoke("pascal-context", tmp_path, app=convert_app).stderr_text


def test_eval_and_convert_are_commands_of_sclip(voc):
    """As the installed program mounts them: options may follow the benchmark."""
    from sclip_plugin.cli import program as cli

    result = CliRunner().invoke(cli.app, ["eval", "voc21", "--check", str(voc / "VOCdevkit" / "VOC2012")])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(cli.app, ["convert", "cityscapes", "--help"]).exit_code == 0
