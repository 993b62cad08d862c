"""Evaluation on the eight benchmarks of training-free open-vocabulary segmentation, and on data sets of your own.

    from sclip_plugin.evaluation import load_benchmark, check_dataset

    report = check_dataset(load_benchmark("voc21"), "VOCdevkit/VOC2012")
    print(report)

`sclip eval` is the same on the command line; ``docs/evaluation.md`` tells the whole story. Nothing here imports torch
before a model is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOMES = {
    "Benchmark": "benchmarks",
    "BenchmarkFileError": "benchmarks",
    "PublishedFigure": "benchmarks",
    "list_benchmarks": "benchmarks",
    "load_benchmark": "benchmarks",
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
    "Preset": "presets",
    "benchmark_preset": "presets",
    "list_presets": "presets",
    "load_preset": "presets",
    "preset_for_method": "presets",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

# ruff: noqa: F401 - these are for type checkers, which do not follow _HOMES
if TYPE_CHECKING:
    from .benchmarks import Benchmark, BenchmarkFileError, PublishedFigure, list_benchmarks, load_benchmark
    from .checking import DatasetReport, check_dataset
    from .conversions import ConversionReport, SourceError, convert_cityscapes, convert_coco_object, convert_coco_stuff
    from .datasets import DatasetError, MaskError, Problem, Sample, find_samples, read_mask
    from .metric import IoUTotals, LabelRangeError, count_picture
    from .pascal_context import convert_pascal_context
    from .presets import Preset, benchmark_preset, list_presets, load_preset, preset_for_method
