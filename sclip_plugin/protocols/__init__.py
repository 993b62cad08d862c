"""Benchmarks and presets as data: classes, folders, mask encodings, settings and published figures.

    from sclip_plugin.protocols import load_benchmark, load_preset

    load_benchmark("voc21").class_names, load_preset("sclip/voc21").logit_scale

Nothing here imports torch.
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
