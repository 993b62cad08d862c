"""Presets: a method with the settings its paper evaluates one benchmark with, for example ``sclip/voc21``.

They are read from the benchmarks' YAML files. This module imports no torch: the segmenter and the command line read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import UnknownNameError, unknown_name
from .benchmarks import Benchmark, BenchmarkFileError, Classes, list_benchmarks, load_benchmark

# The preset a method is evaluated with when none is asked for; any other method borrows SCLIP's settings.
PRESET_OF_METHOD = {
    "csa": "sclip",
    "naclip": "naclip",
    "clearclip": "clearclip",
    "resclip": "resclip",
    "scclip": "scclip",
}


@dataclass(frozen=True)
class Preset:
    """All that turns a picture into a label map, apart from the model.

    Fields:
        name: ``preset/benchmark``.
        method: a name of `list_methods`.
        method_options: the method's options, by keyword.
        classes: one tuple of synonyms per class; class 0 is the background where the data set has one.
        resize_short_side: pixels; the long side stays below 2048.
        window: side of the square windows in pixels; 0 takes the whole picture in one pass.
        stride: pixels from one window to the next.
        logit_scale: factor on the cosines before the softmax.
        prob_threshold: pixels whose best class has a lower score become class 0.
        area_threshold: classes with no larger share than this of all pixels that are not class 0 are dropped; or None.
        pamr_steps: steps of pixel-adaptive refinement; 0 for none.
        pamr_dilations: distances in pixels of the neighbours it looks at.
        normalize_scores: divide the class scores by their sum once labels are decided (changes scores, not labels).
        published_as: what the papers' tables call it, or "".
    """

    name: str
    method: str
    classes: Classes
    method_options: Mapping[str, Any] = field(default_factory=dict)
    resize_short_side: int = 336
    window: int = 224
    stride: int = 112
    logit_scale: float = 40.0
    prob_threshold: float = 0.0
    area_threshold: float | None = None
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    normalize_scores: bool = False
    published_as: str = ""


def list_presets() -> tuple[str, ...]:
    """All names for `load_preset` that ship with the package.

    >>> "sclip/voc21" in list_presets()
    True
    """
    return tuple(f"{preset}/{name}" for name in list_benchmarks() for preset in load_benchmark(name).presets)


def load_preset(name: str) -> Preset:
    """The preset of that name.

    Args:
        name: ``preset/benchmark``, as in `list_presets`.

    Raises:
        UnknownNameError: no such preset.

    >>> load_preset("sclip/voc21").logit_scale
    65.0
    """
    preset, slash, benchmark = name.partition("/")
    if not slash or benchmark not in list_benchmarks():
        presets = sorted({known.partition("/")[0] for known in list_presets()})
        raise UnknownNameError(
            f"unknown preset '{name}'. A preset is PRESET/BENCHMARK, for instance 'sclip/voc21'. "
            f"Presets: {', '.join(presets)}. Benchmarks: {', '.join(list_benchmarks())}."
        )
    return benchmark_preset(load_benchmark(benchmark), preset)


def benchmark_preset(benchmark: Benchmark, preset: str) -> Preset:
    """A preset of a benchmark in hand, for instance one read from a file of your own.

    What the file leaves out has the defaults of `Preset`; the short side's default is the benchmark's own. A benchmark
    without presets still has ``sclip`` and its like with those defaults, so a new data set can be run at once.

    Raises:
        UnknownNameError: the benchmark has presets, but not this one.
        BenchmarkFileError: the file gives the preset a setting that does not exist.

    >>> benchmark_preset(load_benchmark("voc21"), "naclip").window
    0
    """
    if preset in benchmark.presets:
        given = dict(benchmark.presets[preset])
    elif not benchmark.presets and preset in PRESET_OF_METHOD.values():
        given = {"method": next(method for method, name in PRESET_OF_METHOD.items() if name == preset)}
    else:
        raise unknown_name(f"preset of {benchmark.name}", preset, benchmark.presets or PRESET_OF_METHOD.values())

    where = f"{benchmark.path or benchmark.name}: preset '{preset}'"
    settings = {f.name for f in fields(Preset)} - {"name", "classes"}
    for key in given:
        if key not in settings | {"vocabulary"}:
            raise BenchmarkFileError(f"{where}: {unknown_name('setting', key, settings | {'vocabulary'})}")
    if "method" not in given:
        raise BenchmarkFileError(f"{where} does not say its method, for instance 'method: csa'.")

    vocabulary = given.pop("vocabulary", None)
    if vocabulary is not None and vocabulary not in benchmark.vocabularies:
        raise BenchmarkFileError(f"{where}: {unknown_name('vocabulary', vocabulary, benchmark.vocabularies)}")
    given["method_options"] = dict(given.get("method_options") or {})
    given["pamr_dilations"] = tuple(given.get("pamr_dilations", Preset.pamr_dilations))
    given["logit_scale"] = float(given.get("logit_scale", Preset.logit_scale))
    given.setdefault("resize_short_side", benchmark.resize_short_side)
    return Preset(
        name=f"{preset}/{benchmark.name}",
        classes=benchmark.classes if vocabulary is None else benchmark.vocabularies[vocabulary],
        **given,
    )


def preset_for_method(benchmark: Benchmark, method: str) -> Preset:
    """The settings a method is evaluated with when no preset is named: its own, else SCLIP's with the method put in.

    >>> preset_for_method(load_benchmark("voc21"), "maskclip").logit_scale
    65.0
    """
    own = PRESET_OF_METHOD.get(method)
    if own and (own in benchmark.presets or not benchmark.presets):
        return benchmark_preset(benchmark, own)
    base = next(iter(benchmark.presets), "sclip")
    preset = benchmark_preset(benchmark, "sclip" if "sclip" in benchmark.presets else base)
    if preset.method == method:
        return preset
    return replace(preset, method=method, method_options={}, published_as="")
