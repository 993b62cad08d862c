"""What people do with Detectron2: predict, evaluate with its loaders and evaluators, draw, run it in several processes.

The figures are those of the project's own evaluator; one process or two make no difference.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils.visualizer import ColorMode, Visualizer

from sclip_plugin import Segmenter
from sclip_plugin.evaluation import IoUTotals, read_mask
from sclip_plugin.evaluation.runner import evaluate
from sclip_plugin.evaluation.sets import folder_set, locate
from sclip_plugin.imaging.pictures import read_picture
from sclip_plugin.integrations.detectron2 import IoUEvaluator
from sclip_plugin.protocols import load_benchmark

LAUNCHER = Path(__file__).with_name("with_detectron2.py")
EVAL = "sclip_plugin.integrations.detectron2.eval"
# Few prompts and small windows: these tests are about the way of a picture, not about the protocol's size.
FAST = ("MODEL.SCLIP.TEMPLATES", "plain", "MODEL.SCLIP.RESIZE_SHORT_SIDE", 160, "MODEL.SCLIP.WINDOW", 112)
FAST += ("MODEL.SCLIP.STRIDE", 56)
FAST_SETTINGS = {"templates": "plain", "resize_short_side": 160, "window": 112, "stride": 56}


@pytest.fixture(scope="module")
def own(model_name, data_root):
    """The project's own evaluation of a benchmark: (result, {file name: label map}), computed once."""
    known = {}

    def of(name):
        if name not in known:
            benchmark = load_benchmark(name)
            segmenter = Segmenter.from_pretrained(model_name, device="cpu", preset=f"sclip/{name}", **FAST_SETTINGS)
            maps = []

            def predict(pictures):
                maps.extend(result.label_map for result in segmenter(pictures))
                return maps[-len(pictures) :]

            result = evaluate(folder_set(benchmark, locate(benchmark, data_root)), predict)
            known[name] = (result, maps)
        return known[name]

    return of


def test_the_protocols_own_settings_through_the_default_predictor(make_cfg, model_name, datasets):
    """The ten lines of the docs, at full size: label maps of the segmenter's own call with the preset."""
    record = DatasetCatalog.get("sclip_voc21_sem_seg_val")[0]
    rgb = np.array(read_picture(record["file_name"]))
    output = DefaultPredictor(make_cfg("voc21"))(rgb[:, :, ::-1])["sem_seg"]
    expected = Segmenter.from_pretrained(model_name, device="cpu", preset="sclip/voc21")(rgb)
    assert output.shape == (21, *rgb.shape[:2])
    assert np.array_equal(output.argmax(dim=0).numpy(), expected.label_map)


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_predictor_in_either_channel_order(make_cfg, datasets, own, input_format):
    record = DatasetCatalog.get("sclip_voc21_sem_seg_val")[1]
    rgb = np.array(read_picture(record["file_name"]))
    output = DefaultPredictor(make_cfg("voc21", "INPUT.FORMAT", input_format, *FAST))(rgb[:, :, ::-1])["sem_seg"]
    assert np.array_equal(output.argmax(dim=0).numpy(), own("voc21")[1][1])


class Both(DatasetEvaluators):
    """Two evaluators on one run, their figures side by side."""

    def evaluate(self):
        return {"both": [evaluator.evaluate()["sem_seg"] for evaluator in self._evaluators]}


@pytest.mark.parametrize("name", ["voc21", "voc20", "ade20k", "coco_object"])
def test_the_same_figures_as_the_projects_evaluator(make_cfg, datasets, own, name):
    result, maps = own(name)
    cfg = make_cfg(name, *FAST)
    dataset = cfg.DATASETS.TEST[0]
    model = build_model(cfg)  # in training mode as it comes; inference_on_dataset takes care of that
    both = Both([IoUEvaluator(dataset), SemSegEvaluator(dataset)])
    ours, theirs = inference_on_dataset(model, build_detection_test_loader(cfg, dataset), both)["both"]
    assert ours["mIoU"] == 100 * result.miou
    assert ours["pACC"] == 100 * result.totals.aacc
    labelled = result.totals.counts[2]
    for label, iou, count in zip(result.class_names, result.totals.iou, labelled, strict=True):
        assert ours[f"IoU-{label}"] == 100 * iou or math.isnan(iou)
        if count:
            assert theirs[f"IoU-{label}"] == pytest.approx(100 * iou, rel=1e-9), label
    # Which classes are in the mean depends on the version; see IoUEvaluator. These are the two ways.
    present = [100 * iou for iou, count in zip(result.totals.iou, labelled, strict=True) if count]
    ways = (100 * result.miou, sum(present) / len(present))
    assert any(theirs["mIoU"] == pytest.approx(way, rel=1e-9) for way in ways)
    for key, value in (("pACC", result.totals.aacc), ("fwIoU", ours["fwIoU"] / 100), ("mACC", result.totals.macc)):
        assert theirs[key] == pytest.approx(100 * value, rel=1e-9)


def test_the_trainers_own_evaluation(make_cfg, datasets, own):
    """What tools/train_net.py does by --eval-only."""
    cfg = make_cfg("coco_object", *FAST)
    figures = DefaultTrainer.test(cfg, DefaultTrainer.build_model(cfg), [IoUEvaluator(cfg.DATASETS.TEST[0])])
    assert figures["sem_seg"]["mIoU"] == 100 * own("coco_object")[0].miou


def test_the_demo_through_a_config(make_cfg):
    """The model that ships with the package, on a scene of its own: most of it is right."""
    from sclip_plugin.demo import draw_scene

    scene = draw_scene(seed=7)
    labels = list(scene.labels)
    name = "demo" if _has_demo() else make_cfg().MODEL.SCLIP.NAME
    predictor = DefaultPredictor(make_cfg("sclip", "MODEL.SCLIP.NAME", name, "MODEL.SCLIP.CLASSES", labels))
    label_map = predictor(np.array(scene.picture)[:, :, ::-1])["sem_seg"].argmax(dim=0).numpy()
    assert np.array_equal(label_map, Segmenter.from_pretrained(name, device="cpu")(scene.picture, labels).label_map)
    if _has_demo():
        assert (label_map == scene.label_map).mean() > 0.7


def _has_demo():
    from sclip_plugin.demo import MODEL_DIR

    return (MODEL_DIR / "model.safetensors").is_file()


def test_visualizer(make_cfg, pictures):
    model = build_model(make_cfg("sclip", "MODEL.SCLIP.CLASSES", ["cat", "sofa"], *FAST)).eval()
    predictor = DefaultPredictor(make_cfg("sclip", "MODEL.SCLIP.CLASSES", ["cat", "sofa"], *FAST))
    label_map = predictor(pictures[0][:, :, ::-1])["sem_seg"].argmax(dim=0)
    for metadata in (model.metadata, MetadataCatalog.get("sclip_voc21_sem_seg_val")):
        drawn = Visualizer(pictures[0], metadata, instance_mode=ColorMode.IMAGE).draw_sem_seg(label_map, alpha=0.5)
        assert drawn.get_image().shape == pictures[0].shape
        assert not np.array_equal(drawn.get_image(), pictures[0])


def test_ground_truth_can_be_drawn(datasets):
    record = DatasetCatalog.get("sclip_voc20_sem_seg_val")[0]
    rgb = np.array(read_picture(record["file_name"]))
    drawn = Visualizer(rgb, MetadataCatalog.get("sclip_voc20_sem_seg_val")).draw_dataset_dict(record)
    mask = read_mask(datasets / record["sem_seg_file_name"].partition("!")[2], load_benchmark("voc20"))
    assert np.array_equal((drawn.get_image() != rgb).any(), (mask != 255).any())


def test_iou_evaluator_counts_a_missing_class_as_mmsegmentation_does(datasets):
    """A class that is predicted and nowhere true is 0 in the mean; one that is nowhere at all is not in it."""
    import torch

    dataset = "sclip_voc21_sem_seg_val"
    evaluator = IoUEvaluator(dataset, distributed=False)
    record = DatasetCatalog.get(dataset)[0]
    target = read_mask(record["sem_seg_file_name"].partition("!")[2], load_benchmark("voc21"))
    absent = next(label for label in range(20, 0, -1) if not (target == label).any())
    label_map = np.full_like(target, absent)
    scores = torch.nn.functional.one_hot(torch.from_numpy(label_map.astype(np.int64)), 21).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": scores}])
    totals = IoUTotals(21)
    totals.add(label_map.astype(np.int64), target)
    figures = evaluator.evaluate()["sem_seg"]
    assert figures["mIoU"] == 100 * totals.miou == 0
    assert figures[f"IoU-{load_benchmark('voc21').class_names[absent]}"] == 0


@pytest.fixture
def command(monkeypatch, tmp_path, datasets):
    """The command with these arguments, in this process; returns what it wrote."""

    def run(*arguments):
        from sclip_plugin.integrations.detectron2.eval import run

        monkeypatch.setattr(sys, "argv", [EVAL, *map(str, arguments)])
        run()
        return json.loads((tmp_path / "results.json").read_text())

    return run


def options(model_name, output):
    return ["MODEL.SCLIP.NAME", model_name, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", output, "DATALOADER.NUM_WORKERS", 1]


def test_the_command_gives_the_figures_of_the_projects_evaluator(command, own, model_name, tmp_path):
    results = command("--eval-only", "--config-file", "voc21", *options(model_name, tmp_path), *FAST)
    expected, _ = own("voc21")
    figures = results["sclip_voc21_sem_seg_val"]["sem_seg"]
    assert figures["mIoU"] == 100 * expected.miou
    assert figures["pACC"] == 100 * expected.totals.aacc


def test_two_processes_give_the_figures_of_one(datasets, own, model_name, tmp_path):
    """By torchrun and gloo: Detectron2's `launch` wants CUDA. Three pictures: an uneven share."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["--config-file", "ade20k", *options(model_name, tmp_path), *FAST]
    done = subprocess.run(
        [*torchrun, str(LAUNCHER), EVAL, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    expected, _ = own("ade20k")
    figures = json.loads((tmp_path / "results.json").read_text())["sclip_ade20k_sem_seg_val"]["sem_seg"]
    assert figures["mIoU"] == 100 * expected.miou
    assert [figures[f"IoU-{name}"] for name in expected.class_names] == [
        None if math.isnan(iou) else 100 * iou for iou in expected.totals.iou
    ]
    assert f"{100 * expected.miou:.4f}" in done.stdout  # in the log, for people


def test_the_command_takes_lazy_configs(command, own, model_name, tmp_path):
    fast = [f"model.segmenter.{key}={value}" for key, value in FAST_SETTINGS.items()]
    model = [f"model.segmenter.name={model_name}", "model.segmenter.device=cpu", "dataloader.test.num_workers=0"]
    results = command("--config-file", "lazy/voc20", *model, *fast, f"train.output_dir={tmp_path}")
    assert results["sclip_voc20_sem_seg_val"]["sem_seg"]["mIoU"] == 100 * own("voc20")[0].miou


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "DATASETS.TEST names no data set"),
        (("DATASETS.TEST", "('coco_2017_val',)"), "'coco_2017_val' asks for an evaluator of type 'coco'"),
    ],
)
def test_the_command_says_what_it_lacks(command, model_name, tmp_path, arguments, message):
    own_classes = ("MODEL.SCLIP.CLASSES", "cat")
    with pytest.raises((ValueError, NotImplementedError), match=message):
        command("--config-file", "sclip", *options(model_name, tmp_path), *own_classes, *arguments)


def test_without_detectron2_the_import_says_where_to_get_it():
    code = "import sys; sys.modules['detectron2'] = None; import sclip_plugin.integrations.detectron2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tutorials/install.html" in done.stderr
