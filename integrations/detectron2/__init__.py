"""A Detectron2 model of any CLIP: semantic segmentation into classes named in words, by config.

    from sclip_plugin.integrations.detectron2 import add_sclip_config, config_file

    cfg = get_cfg()
    add_sclip_config(cfg)
    cfg.merge_from_file(config_file("voc21"))
    DefaultPredictor(cfg)(bgr)["sem_seg"]                 # (classes, H, W)

Importing this registers the meta-architecture ``SCLIPSegmentor`` and the eight benchmarks as data sets.
``python -m sclip_plugin.integrations.detectron2.eval`` evaluates; ``docs/detectron2.md`` has the whole story.
"""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "sclip_plugin.integrations.detectron2 needs Detectron2, which is not installed here, and not on PyPI under its "
        "own name; its instructions: https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
        name="detectron2",
    ) from error

from .config import add_sclip_config, config_file, read_classes
from .datasets import register_benchmark, register_benchmarks, register_prepared_datasets
from .evaluator import IoUEvaluator
from .mapper import PictureMapper
from .segmentor import SCLIPSegmentor

__all__ = [
    "IoUEvaluator",
    "PictureMapper",
    "SCLIPSegmentor",
    "add_sclip_config",
    "config_file",
    "read_classes",
    "register_benchmark",
    "register_benchmarks",
    "register_prepared_datasets",
]

register_benchmarks()
