"""Detectron2 for these tests (see provision.py), a model, and pictures with ground truth in the benchmarks' folders.

The pictures are the real ones beside this checkout where they are, else scenes of the demo in the same folders; so
nothing here is ever skipped.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import provision

provision.make_importable()

SHARED_DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No text bank of the user's is read or written; neither is it by the processes that tests start."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ.setdefault("SCLIP_TEST_CACHE", str(provision.folder().parent))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def model_name(tmp_path_factory):
    """The golden checkpoint as a folder: 12 layers, which every method's options fit."""
    import golden

    return str(golden.save_folder(tmp_path_factory.mktemp("golden-clip")))


@pytest.fixture(scope="session")
def segmenter(model_name):
    from sclip_plugin import Segmenter

    return Segmenter.from_pretrained(model_name, device="cpu")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """What DETECTRON2_DATASETS is to be: a folder with VOCdevkit/VOC2012, ADEChallengeData2016 and coco_object."""
    if SHARED_DATA.is_dir():
        return SHARED_DATA
    root = tmp_path_factory.mktemp("datasets")
    _write_scenes(root, "VOCdevkit/VOC2012", "JPEGImages/{}.jpg", "SegmentationClass/{}.png", 21, palette=True)
    split = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("\n".join(f"scene_{seed}" for seed in range(3)) + "\n")
    ade = ("images/validation/{}.jpg", "annotations/validation/{}.png")
    _write_scenes(root, "ADEChallengeData2016", *ade, 151)
    coco = ("images/val2017/{}.jpg", "annotations/val2017/{}_instanceTrainIds.png")
    _write_scenes(root, "coco_object", *coco, 81)
    return root


def _write_scenes(root, folder, image, mask, labels, palette=False):
    from PIL import Image

    from sclip_plugin.demo import draw_scene

    for seed in range(3):
        scene = draw_scene(seed, size=(240 + 20 * seed, 200))
        values = (scene.label_map.astype(np.int64) * 7 + seed) % labels
        values[:8] = 255
        paths = [root / folder / pattern.format(f"scene_{seed}") for pattern in (image, mask)]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(paths[0])
        drawn = Image.fromarray(values.astype(np.uint8))
        if palette:
            drawn.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
        drawn.save(paths[1])


@pytest.fixture
def datasets(data_root, monkeypatch):
    """The folder, set as DETECTRON2_DATASETS."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data_root))
    return data_root


@pytest.fixture(scope="session")
def pictures(data_root):
    """Three pictures of different sizes, RGB arrays."""
    from sclip_plugin.imaging.pictures import read_picture

    paths = sorted((data_root / "VOCdevkit/VOC2012/JPEGImages").iterdir())[:3]
    return [np.array(read_picture(path).resize((180 + 30 * i, 150 - 10 * i))) for i, path in enumerate(paths)]


@pytest.fixture
def make_cfg(model_name):
    """A config with a file that ships and further options: ``make_cfg("voc21", "MODEL.SCLIP.WINDOW", 112)``."""

    def make(name="sclip", *options):
        from detectron2.config import get_cfg

        from sclip_plugin.integrations.detectron2 import add_sclip_config, config_file

        cfg = get_cfg()
        add_sclip_config(cfg)
        cfg.merge_from_file(config_file(name))
        cfg.merge_from_list(
            ["MODEL.SCLIP.NAME", model_name, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *options]
        )
        return cfg

    return make
