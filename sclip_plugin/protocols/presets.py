"""Presets: a method with the settings its paper evaluates one benchmark with, for example ``sclip/voc21``.

They are read from the benchmarks' YAML files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import SclipError, UnknownNameError, unknown_name
from ..settings import Settings, setting_names
from .benchmarks import Benchmark, BenchmarkFileError, Classes, list_benchmarks, load_benchmark

# The preset a method is evaluated with when none is asked for; any other method borrows SCLIP's settings.
PRESET_OF_METHOD = {
    "csa": "sclip",
    "sam3": "sam3",
    "naclip": "naclip",
    "clearclip": "clearclip",
    "resclip": "resclip",
    "scclip": "scclip",
    "proxyclip": "proxyclip",
    "corrclip": "corrclip",
    "textregion": "textregion",
    "itaclip": "itaclip",
    "dinoiser": "dinoiser",
    "trident": "trident",
}


@dataclass(frozen=True)
class Preset:
    """Settings, classes and a name: all that turns a picture into a label map, apart from the model.

    Fields:
        name: ``preset/benchmark``.
        classes: one tuple of synonyms per class; class 0 is the background where the data set has one.
        settings: the rest.
        published_as: what the papers' tables call it, or "".
        differs: what is not as the authors have it, or "". No published figure stands beside such a preset.
    """

    name: str
    classes: Classes
    settings: Settings
    published_as: str = ""
    differs: str = ""


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

    >>> load_preset("sclip/voc21").settings.logit_scale
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

    What the file leaves out has the defaults of `Settings`; the short side's default is the benchmark's own. A
    benchmark without presets still has ``sclip`` and its like with those defaults, so a new data set can be run at
    once.

    Raises:
        UnknownNameError: the benchmark has presets, but not this one.
        BenchmarkFileError: the file gives the preset a setting that does not exist.

    >>> benchmark_preset(load_benchmark("voc21"), "naclip").settings.window
    0
    """
    if preset in benchmark.presets:
        given = benchmark.presets[preset]
        given = dict(given) if isinstance(given, Mapping) else given
    elif not benchmark.presets and preset in PRESET_OF_METHOD.values():
        given = {"method": next(method for method, name in PRESET_OF_METHOD.items() if name == preset)}
    else:
        raise unknown_name(f"preset of {benchmark.name}", preset, benchmark.presets or PRESET_OF_METHOD.values())

    where = f"{benchmark.path or benchmark.name}: preset '{preset}'"
    if not isinstance(given, dict):
        raise BenchmarkFileError(f"{where} is {given!r}; expected settings by name.")
    known = setting_names() | {"vocabulary", "published_as", "differs", "renamed"}
    for key in given:
        if key not in known:
            raise BenchmarkFileError(f"{where}: {unknown_name('setting', key, known)}")
    if "method" not in given:
        raise BenchmarkFileError(f"{where} does not say its method, for instance 'method: csa'.")

    published_as, differs = given.pop("published_as", ""), given.pop("differs", "")
    if published_as and differs:
        raise BenchmarkFileError(
            f"{where} has both 'published_as' and 'differs'; a published figure is for the authors' own settings. "
            "Leave one of them out."
        )
    vocabulary = given.pop("vocabulary", None)
    if vocabulary is not None and vocabulary not in benchmark.vocabularies:
        raise BenchmarkFileError(f"{where}: {unknown_name('vocabulary', vocabulary, benchmark.vocabularies)}")
    classes = benchmark.classes if vocabulary is None else benchmark.vocabularies[vocabulary]
    renamed, firsts = given.pop("renamed", {}), [names[0] for names in classes]
    if not isinstance(renamed, dict) or not all(isinstance(names, list) for names in renamed.values()):
        raise BenchmarkFileError(f"{where}: renamed is {renamed!r}; expected lists of names by a class's first name.")
    for first in renamed:
        if first not in firsts:
            raise BenchmarkFileError(f"{where}: renamed: {unknown_name('class', first, firsts)}")
    classes = tuple(tuple(renamed.get(names[0], names)) for names in classes)
    try:
        settings = Settings(**{"resize_short_side": benchmark.resize_short_side, **given})
    except SclipError as error:
        raise BenchmarkFileError(f"{where}: {error}") from error
    return Preset(f"{preset}/{benchmark.name}", classes, settings, published_as, differs)


def preset_for_method(benchmark: Benchmark, method: str) -> Preset:
    """The settings a method is evaluated with when no preset is named: its own, else SCLIP's with the method put in.

    >>> preset_for_method(load_benchmark("voc21"), "maskclip").settings.logit_scale
    65.0
    """
    from ..methods import make_method

    own = PRESET_OF_METHOD.get(make_method(method).name)
    if own and (own in benchmark.presets or not benchmark.presets):
        return with_method(benchmark_preset(benchmark, own), method)
    base = next(iter(benchmark.presets), "sclip")
    preset = benchmark_preset(benchmark, "sclip" if "sclip" in benchmark.presets else base)
    return with_method(preset, method)


def with_method(preset: Preset, method: str) -> Preset:
    """The preset with another method in its place, with that method's own options; itself where it has the method, and
    no other options are asked for."""
    from ..methods import make_method

    asked = make_method(method)
    if asked.name == preset.settings.method_name and not asked.changed_options():
        return preset
    return replace(preset, settings=preset.settings.changed(method=method), published_as="", differs="")
