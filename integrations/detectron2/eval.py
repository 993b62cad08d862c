"""Evaluate a config on its data sets, on one device or several, or without any:

    python -m sclip_plugin.integrations.detectron2.eval --config-file voc21 MODEL.SCLIP.METHOD naclip
    python -m sclip_plugin.integrations.detectron2.eval --config-file lazy/voc21 model.segmenter.method=naclip
    torchrun --nproc-per-node 2 -m sclip_plugin.integrations.detectron2.eval --config-file voc21

The arguments are those of Detectron2's ``tools/train_net.py --eval-only``; ``--config-file`` also takes the name of a
config that ships. Figures go to the log and to ``OUTPUT_DIR/results.json``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.utils import comm

from sclip_plugin.errors import SettingError
from sclip_plugin.evaluation.processes import Processes
from sclip_plugin.storage.files import save_json

from .config import add_sclip_config, config_file
from .datasets import register_prepared_datasets
from .evaluator import IoUEvaluator
from .mapper import PictureMapper

Results = dict[str, dict[str, dict[str, float]]]


def main(args: argparse.Namespace) -> Results:
    """Evaluate; `launch` calls this in each process.

    Returns:
        Of each data set what its evaluator gave, ``{"sem_seg": {"mIoU": …}}``, in per cent; nothing in processes other
        than the first.
    """
    register_prepared_datasets()
    if not Path(args.config_file).is_file():
        args.config_file = config_file(args.config_file)
    results, output = (_run_lazy if args.config_file.endswith(".py") else _run_yaml)(args)
    if not comm.is_main_process():
        return {}
    for figures in results.values():
        print_csv_format(figures)
    save_json(results, Path(output) / "results.json")
    return results


def _run_yaml(args: argparse.Namespace) -> tuple[Results, str]:
    cfg = get_cfg()
    add_sclip_config(cfg)
    cfg.MODEL.DEVICE = _device(cfg.MODEL.DEVICE)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    results = {}
    if not cfg.DATASETS.TEST:
        raise SettingError(
            "DATASETS.TEST names no data set, for instance DATASETS.TEST \"('sclip_voc21_sem_seg_val',)\"."
        )
    for name in cfg.DATASETS.TEST:
        kind = MetadataCatalog.get(name).get("evaluator_type", "sem_seg")
        if kind != "sem_seg":
            raise NotImplementedError(
                f"the data set '{name}' asks for an evaluator of type '{kind}'; here is 'sem_seg' only."
            )
        loader = build_detection_test_loader(cfg, name, mapper=PictureMapper(cfg, is_train=False))
        results[name] = inference_on_dataset(model, loader, IoUEvaluator(name))
    return results, cfg.OUTPUT_DIR


def _run_lazy(args: argparse.Namespace) -> tuple[Results, str]:
    cfg = LazyConfig.load(args.config_file)
    cfg.setdefault("train", {})  # it returns the dict that it copies
    cfg.train.setdefault("output_dir", "./output")
    if device := _device(None):
        cfg.model.segmenter.device = device
    cfg = LazyConfig.apply_overrides(cfg, args.opts)
    default_setup(cfg, args)
    model = instantiate(cfg.model).eval()
    name = cfg.dataloader.test.dataset.names
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    return {name: inference_on_dataset(model, loader, evaluator)}, cfg.train.output_dir


def _device(default: str | None) -> str | None:
    """Of a process of torchrun's its own GPU, where there are GPUs; `launch` sets it by itself."""
    return Processes().device() if "LOCAL_RANK" in os.environ else default


def run() -> None:
    """The command: alone, as a process of torchrun's, or in processes of Detectron2's `launch` by ``--num-gpus``."""
    args = default_argument_parser().parse_args()
    processes = Processes.start()
    if processes.world > 1:
        main(args)
        processes.stop()
    else:
        launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))


if __name__ == "__main__":
    run()
