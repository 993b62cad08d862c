"""Examples of an evaluation: drawn as the authors' code draws, from the training pictures, and what they teach."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.cli.evaluate import eval_app
from sclip_plugin.evaluation.datasets import DatasetError, MaskError
from sclip_plugin.evaluation.sets import demo_set, folder_set, training_of
from sclip_plugin.evaluation.support import drawn, taught, with_rns
from sclip_plugin.protocols import list_benchmarks, load_benchmark
from sclip_plugin.text.tuned import cells_path

from .layouts import write_dataset

SHOWN = np.array([
    [1, 1, 0, 0, 1], [1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 0, 1], [1, 1, 0, 1, 1], [1, 0, 1, 1, 0],
], bool)  # fmt: skip
"""Which classes the six pictures of the shared reference data `golden/RNS.npz` show."""


@pytest.mark.parametrize(("most", "seed", "expected"), [(2, 100, [1, 3, 4]), (1, 18, [3, 4])])
def test_what_the_authors_code_draws(most, seed, expected):
    assert drawn(SHOWN, most, seed) == expected


def test_a_draw_gives_each_class_its_pictures():
    shown = np.random.default_rng(0).random((40, 6)) < 0.2
    for seed in (18, 42):
        taken = drawn(shown, 5, seed)
        assert (shown[taken].sum(axis=0) >= np.minimum(5, shown.sum(axis=0)) - 1).all() and taken == sorted(set(taken))
    assert drawn(shown, 5, 18) != drawn(shown, 5, 42)
    assert drawn(np.zeros((3, 2), bool), 1, 0) == []


@pytest.mark.parametrize("name", list_benchmarks())
def test_training_pictures_lie_beside_the_validation(name):
    training = training_of(load_benchmark(name))
    said = f"{training.images} {training.masks} {training.split}"
    assert "train" in said and "/val" not in said and training.pictures is None


def test_a_data_set_without_validation_has_none(tmp_path):
    yaml = tmp_path / "pets.yaml"
    yaml.write_text("name: pets\nimages: approval/*.jpg\nmasks: labels/*.png\nclasses: [cat, dog]\n")
    with pytest.raises(DatasetError, match="names 'val'"):
        training_of(load_benchmark(yaml))


@pytest.fixture(scope="module")
def demo():
    return sp.Segmenter.from_pretrained("demo", device="cpu", cache_dir=False, templates="plain", present=False)


def smaller(data, count, wrong=()):
    """Of the training pictures the first few, some of which can't be used."""

    def training():
        whole = data.training()

        def load(name):
            if name in wrong:
                raise MaskError("its mask is broken", "kind")
            picture, target = whole.load(name)
            target = target.copy()
            target[:10] = whole.benchmark.ignore_index
            return picture, target

        return dataclasses.replace(whole, names=whole.names[:count], load=load)

    return dataclasses.replace(data, training=training)


def test_they_teach(demo):
    data = demo_set(2)
    assert not set(data.training().names) - {f"scene_{i:04d}" for i in range(200)}
    first = [each.load("scene_0000")[1] for each in (data, data.training())]
    assert not np.array_equal(*first), "what teaches is not what is evaluated"
    labels = [list(names) for names in data.benchmark.classes]
    tuned, said = taught(demo, labels, demo.settings, smaller(data, 6, wrong=("scene_0002",)), 1, 100)
    assert said[0] == "left out: scene_0002: its mask is broken" and "of 5 training pictures teach" in said[1]
    assert said[2].startswith("classes without any: ")
    area = float(tuned.cells.shares.float().sum()) / len(tuned.cells.shares)
    assert 0.8 < area < 0.97, "what is ignored is not learnt from"
    with pytest.raises(DatasetError, match="can be used"):
        taught(demo, labels, demo.settings, smaller(data, 1, wrong=("scene_0000",)), 1, 100)
    with pytest.raises(DatasetError, match="no training pictures"):
        taught(demo, labels, demo.settings, dataclasses.replace(data, training=None), 1, 100)


def test_steps_of_rns(tmp_path):
    (tmp_path / "a.cells.safetensors").touch()
    settings = sp.Settings(steps="surgery, pamr, threshold(0.4)")
    steps = with_rns(settings, tmp_path / "a.safetensors")
    assert steps == (f"rns('{tmp_path / 'a.safetensors'}')", *settings.steps[1:])


def invoke(*arguments):
    return CliRunner().invoke(eval_app, [str(argument) for argument in arguments])


def test_from_the_command_line(tmp_path):
    how = ("demo", "--scenes", 2, "--set", "templates=plain", "--out", tmp_path, "--examples", 1)
    result = invoke(*how)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "demo" / "demo-csa-1-examples-seed-100"
    content = json.loads((folder / "results.json").read_text())
    assert content["settings"]["examples"] == "1-examples-seed-100"
    assert sp.Tuned.load(folder / "examples.safetensors").labels[0] == "cat"
    assert cells_path(folder / "examples.safetensors").is_file()
    assert "(0 now" in invoke(*how).stdout, "the same examples teach the same"
    rns = invoke(*how, "--rns", "--seed", 18, "--limit", 1)
    assert rns.exit_code == 0, rns.output
    content = json.loads((tmp_path / "demo/demo-csa-1-examples-seed-18-rns/results.json").read_text())
    assert content["settings"]["steps"][0].startswith("rns(")


@pytest.mark.parametrize(
    "given",
    [("demo", "--examples", 1, "--labels", "@a.safetensors"), ("mvtec", "--examples", 1), ("demo", "--rns")],
)
def test_what_does_not_go_together(given):
    assert "examples" in str(invoke(*given).exception)


def test_a_benchmarks_own_training_pictures(tmp_path):
    benchmark = load_benchmark("ade20k")
    write_dataset(benchmark, tmp_path, 2)
    write_dataset(training_of(benchmark), tmp_path, 3)
    data = folder_set(benchmark, tmp_path)
    assert len(data.names) == 2 and len(data.training().names) == 3
