"""Evaluation on the eight benchmarks of training-free open-vocabulary segmentation, and on data sets of your own.

    from sclip_plugin.evaluation import load_benchmark, check_dataset

    report = check_dataset(load_benchmark("voc21"), "VOCdevkit/VOC2012")
    print(report)

`sclip eval` is the same on the command line; ``docs/evaluation.md`` tells the whole story. Nothing here imports torch
before a model is run.
"""

from .benchmarks import Benchmark, BenchmarkFileError, PublishedFigure, list_benchmarks, load_benchmark
from .presets import Preset, benchmark_preset, list_presets, load_preset, preset_for_method

__all__ = [
    "Benchmark",
    "BenchmarkFileError",
    "Preset",
    "PublishedFigure",
    "benchmark_preset",
    "list_benchmarks",
    "list_presets",
    "load_benchmark",
    "load_preset",
    "preset_for_method",
]
