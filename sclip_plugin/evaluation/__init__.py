"""Evaluation on the eight benchmarks of training-free open-vocabulary segmentation, and on data sets of your own.

    from sclip_plugin.evaluation import load_benchmark, check_dataset

    report = check_dataset(load_benchmark("voc21"), "VOCdevkit/VOC2012")
    print(report)

`sclip eval` is the same on the command line; ``docs/evaluation.md`` tells the whole story. Nothing here imports torch
before a model is run.
"""

from .benchmarks import Benchmark, BenchmarkFileError, PublishedFigure, list_benchmarks, load_benchmark
from .checking import DatasetReport, check_dataset
from .conversions import ConversionReport, SourceError, convert_cityscapes, convert_coco_object, convert_coco_stuff
from .datasets import DatasetError, MaskError, Problem, Sample, find_samples, read_mask
from .metric import IoUTotals, LabelRangeError, count_picture
from .pascal_context import convert_pascal_context
from .presets import Preset, benchmark_preset, list_presets, load_preset, preset_for_method

__all__ = [
    "Benchmark",
    "BenchmarkFileError",
    "ConversionReport",
    "DatasetError",
    "DatasetReport",
    "IoUTotals",
    "LabelRangeError",
    "MaskError",
    "Preset",
    "Problem",
    "PublishedFigure",
    "Sample",
    "SourceError",
    "benchmark_preset",
    "check_dataset",
    "convert_cityscapes",
    "convert_coco_object",
    "convert_coco_stuff",
    "convert_pascal_context",
    "count_picture",
    "find_samples",
    "list_benchmarks",
    "list_presets",
    "load_benchmark",
    "load_preset",
    "preset_for_method",
    "read_mask",
]
