"""Evaluation on the eight benchmarks of training-free open-vocabulary segmentation, and on data sets of your own.

    from sclip_plugin.evaluation import check_dataset
    from sclip_plugin.protocols import load_benchmark

    report = check_dataset(load_benchmark("voc21"), "VOCdevkit/VOC2012")
    print(report)

`sclip eval` is the same on the command line; ``docs/evaluation.md`` tells the whole story. Nothing here imports torch
before a model is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..importing import lazy_names

_HOMES = {
    "DatasetReport": "checking",
    "check_dataset": "checking",
    "ConversionReport": "conversions",
    "SourceError": "conversions",
    "convert_cityscapes": "conversions",
    "convert_coco_object": "conversions",
    "convert_coco_stuff": "conversions",
    "DatasetError": "datasets",
    "MaskError": "datasets",
    "Problem": "datasets",
    "Sample": "datasets",
    "find_samples": "datasets",
    "read_mask": "datasets",
    "IoUTotals": "metric",
    "LabelRangeError": "metric",
    "count_picture": "metric",
    "convert_pascal_context": "pascal_context",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

# ruff: noqa: F401 - these are for type checkers, which do not follow _HOMES
if TYPE_CHECKING:
    from .checking import DatasetReport, check_dataset
    from .conversions import ConversionReport, SourceError, convert_cityscapes, convert_coco_object, convert_coco_stuff
    from .datasets import DatasetError, MaskError, Problem, Sample, find_samples, read_mask
    from .metric import IoUTotals, LabelRangeError, count_picture
    from .pascal_context import convert_pascal_context
