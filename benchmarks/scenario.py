"""What the benchmarks share: models with random weights, a picture, labels, and how time and memory are taken.

Time and memory do not depend on what the weights are.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.imaging.resampling import target_size
from sclip_plugin.protocols.benchmarks import load_benchmark

SHORT_SIDE, WINDOW, STRIDE = 336, 224, 112
BENCHMARK_OF = {19: "cityscapes", 21: "voc21", 60: "context60", 150: "ade20k", 171: "coco_stuff"}


@dataclass
class Scenario:
    """One tower, one size (height, width) of picture, one number of labels, under SCLIP's protocol for VOC."""

    model: Any
    tokenizer: Any
    picture: Image.Image
    size: tuple[int, int]
    classes: list[list[str]]
    segmenter: sp.Segmenter

    @property
    def resized(self) -> tuple[int, int]:
        return target_size(*self.size, SHORT_SIDE)

    def plain_arguments(self) -> dict[str, Any]:
        """What `plain.segment` wants beside the model: the picture, and the text embeddings that ours uses too."""
        vocabulary, text = self.segmenter.text_embeddings(self.classes)
        encoder = self.segmenter.encoder
        return dict(
            picture=np.asarray(self.picture), text=text, size=self.resized, window=WINDOW, stride=STRIDE,
            logit_scale=self.segmenter.settings.logit_scale, mean=encoder.mean, std=encoder.std,
            class_of_name=vocabulary.class_of_name,
        )  # fmt: skip


def scenario(tower: str, size: tuple[int, int], labels: int) -> Scenario:
    torch.manual_seed(0)
    model = open_clip.create_model(tower, pretrained=None).eval().requires_grad_(False)
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    tokenizer = open_clip.get_tokenizer(tower)
    segmenter = sp.Segmenter(
        model, tokenizer, cache_dir=False, templates="plain",
        resize_short_side=SHORT_SIDE, window=WINDOW, stride=STRIDE,
    )  # fmt: skip
    return Scenario(model, tokenizer, picture, size, some_labels(labels), segmenter)


def some_labels(count: int) -> list[list[str]]:
    """The classes of a benchmark that has so many (VOC's 21 have 56 names), else words and pairs of words."""
    if count in BENCHMARK_OF:
        return [list(names) for names in load_benchmark(BENCHMARK_OF[count]).classes]
    words = dict.fromkeys(n for b in ("ade20k", "coco_stuff") for names in load_benchmark(b).classes for n in names)
    pairs = [f"{first} {second}" for second in list(words)[:5] for first in words]
    return [[name] for name in dict.fromkeys([*words, *pairs])][:count]


def median_times(paths: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds of each path: once to warm up, then all in turns."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(runs + 1):
        for name, path in paths.items():
            start = time.perf_counter()
            path()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def peak_memory(path: Callable[[], object]) -> float:
    """MiB that a path takes at most, above what is there before it. Linux with glibc."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before counts as taken when it is taken again
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is counted anew
    before = _resident("VmRSS")
    path()
    return (_resident("VmHWM") - before) / 1024


def _resident(key: str) -> int:
    """KiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {torch.get_num_threads()} threads, {memory:.0f} GiB, torch {torch.__version__}"


def table(head: list[str], rows: list[list[Any]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print()
