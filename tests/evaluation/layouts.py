"""Small generated data sets in the layouts of the benchmarks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sclip_plugin.protocols.benchmarks import Benchmark

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
REAL_DATA = {
    "voc21": "VOCdevkit/VOC2012",
    "voc20": "VOCdevkit/VOC2012",
    "ade20k": "ADEChallengeData2016",
    "coco_object": "coco_object",
}


def sample_name(benchmark: Benchmark, index: int) -> str:
    """What the stars stand for in the index-th generated sample: one part per star."""
    stars = benchmark.images.count("*")
    return "/".join([f"city{index % 2}"] * (stars - 1) + [f"pic_{index:03d}"])


def fill(pattern: str, name: str) -> str:
    for star in name.split("/"):
        pattern = pattern.replace("*", star, 1)
    return pattern


def file_labels(benchmark: Benchmark, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Random label blocks as the mask file has them: with 0 where it is reduced, and 255 here and there."""
    rng = np.random.default_rng(seed)
    high = benchmark.num_classes + int(benchmark.reduce_zero_label)
    blocks = rng.integers(0, high, (4, 4))
    labels = np.kron(blocks, np.ones((-(-shape[0] // 4), -(-shape[1] // 4)), int))[: shape[0], : shape[1]]
    labels[: shape[0] // 8] = benchmark.ignore_index
    return labels.astype(np.uint8)


def write_sample(benchmark: Benchmark, root: Path, name: str, size: tuple[int, int], labels: np.ndarray | None = None):
    """A picture of (width, height) and its mask; returns the paths."""
    seed = zlib.crc32(name.encode())
    rng = np.random.default_rng(seed)
    image, mask = root / fill(benchmark.images, name), root / fill(benchmark.masks, name)
    image.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(image)
    if labels is None:
        labels = file_labels(benchmark, size[::-1], seed)
    picture = Image.fromarray(labels)
    if "VOC" in benchmark.title or "Segmentation" in benchmark.masks:
        picture = picture.convert("P")
        picture.putdata(labels.ravel().tolist())
    picture.save(mask)
    return image, mask


def write_dataset(benchmark: Benchmark, root: Path, pictures: int = 4) -> list[str]:
    """Pictures of different sizes and their masks, and the split where the benchmark has one; returns the names."""
    names = [sample_name(benchmark, index) for index in range(pictures)]
    for index, name in enumerate(names):
        write_sample(benchmark, root, name, (40 + 7 * index, 33 + 3 * index))
    if benchmark.split:
        split = root / benchmark.split
        split.parent.mkdir(parents=True, exist_ok=True)
        split.write_text("\n".join(names) + "\n")
    return names
