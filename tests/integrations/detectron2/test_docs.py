"""What docs/detectron2.md shows works, from top to bottom, and what README.md shows of Detectron2."""

import json
import shlex
import sys

import pages
import pytest

import sclip_plugin

EVAL = "sclip_plugin.integrations.detectron2.eval"
LINES = [line for line in pages.commands("detectron2") if EVAL in line]
# Lines that are parsed and not run: GPUs, several processes (test_workflows.py has two), CAT-Seg's folders
# (test_datasets.py makes them).
PARSED = ("--num-gpus", "torchrun", "context_59_test_sem_seg")

# Detectron2's loaders start four processes wherever they are.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, datasets):
    """A folder with the model, the picture and the data set that they name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai/clip-vit-base-patch16").symlink_to(sclip_plugin.demo_model())
    sclip_plugin.draw_scene(seed=0).picture.save("photo.jpg")
    pets = pages.blocks("evaluation", "yaml")[0]
    (tmp_path / "mine.yaml").write_text(pets.replace("name: pets", "name: mine"))


def test_every_example_runs(tmp_path):
    from detectron2.data import DatasetCatalog

    names = pages.run_blocks("detectron2")
    assert names["scores"].shape == (21, 144, 216) and (tmp_path / "out.png").exists()
    assert "sclip_mine_sem_seg_val" in DatasetCatalog.list()


def test_the_readmes_example_runs():
    (block,) = [block for block in pages.blocks("README") if "from detectron2" in block]
    names: dict = {}
    exec(block, names)
    assert names["scores"].shape == (21, 144, 216)


@pytest.mark.parametrize("line", LINES)
def test_every_command_runs(line, tmp_path, monkeypatch):
    from sclip_plugin.integrations.detectron2 import eval as command

    words = shlex.split(line, comments=True)
    monkeypatch.setattr(sys, "argv", words[words.index(EVAL) :])
    if any(word in line for word in PARSED):
        assert command.default_argument_parser().parse_args().config_file
        return
    command.run()
    (results,) = json.loads((tmp_path / "output/results.json").read_text()).values()
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
