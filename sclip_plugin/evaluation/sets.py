"""What is evaluated on: pictures with their targets, from a benchmark's folder or drawn by the demo."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..protocols.benchmarks import Benchmark
from .datasets import DatasetError, Problem, find_samples, read_mask
from .wording import listing

DEMO_SCENES = 120
DEMO_TRAINING, DEMO_FIRST = 200, 5000  # scenes that may teach
DEMO_SIZE = (192, 144)  # (width, height): several windows of what the demo model sees at once
DEMO_SETTINGS = {"method": "csa", "resize_short_side": 144, "window": 96, "stride": 48, "logit_scale": 40.0}


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures with their targets.

    Fields:
        benchmark: classes, encoding, presets, published figures.
        source: where the pictures come from, in words; part of what a resumed run must agree on.
        names: the pictures, in order.
        load: a name's picture (RGB) and its target, (H, W) integers, as `read_mask` gives them. Called from threads.
            Raises OSError for a picture and MaskError for a mask that cannot be used.
        source_hash: a hash of what ``load`` reads for a name, so that a run does not go on from figures of another
            picture of the same name; None where pictures of a name are always the same.
        problems: what is wrong with the data set as far as is known without opening it.
        training: function that gives the pictures that may teach; None: there are none.
    """

    benchmark: Benchmark
    source: str
    names: tuple[str, ...]
    load: Callable[[str], tuple[Image.Image, np.ndarray]]
    problems: tuple[Problem, ...] = ()
    source_hash: Callable[[str], str] | None = None
    training: Callable[[], EvaluationSet] | None = None


def folder_set(benchmark: Benchmark, root: str | Path) -> EvaluationSet:
    """The pictures of a benchmark's folder.

    Raises:
        DatasetError: the folder does not hold the data set.
    """
    from ..imaging.pictures import PictureError, read_picture

    root = Path(root).absolute()  # workers may be in another folder
    samples, problems = find_samples(benchmark, root)
    by_name = {sample.name: sample for sample in samples}

    def load(name: str) -> tuple[Image.Image, np.ndarray]:
        sample = by_name[name]
        try:
            picture = read_picture(sample.image_path)
        except PictureError as error:
            raise OSError(str(error)) from error
        return picture, read_mask(sample.mask_path, benchmark, picture.size)

    def source_hash(name: str) -> str:
        digest = hashlib.sha256()
        for path in (by_name[name].image_path, by_name[name].mask_path):
            with contextlib.suppress(OSError), open(path, "rb") as file:  # whoever loads it will say so
                while block := file.read(2**20):
                    digest.update(block)
            digest.update(b"\0")
        return digest.hexdigest()[:16]

    return EvaluationSet(
        benchmark, str(root.resolve()), tuple(by_name), load, tuple(problems), source_hash,
        lambda: folder_set(training_of(benchmark), root),
    )  # fmt: skip


def training_of(benchmark: Benchmark) -> Benchmark:
    """The benchmark of the training pictures: where its paths name the validation, these name the training.

    Raises:
        DatasetError: they name no validation.

    >>> from sclip_plugin.protocols import load_benchmark
    >>> training_of(load_benchmark("voc21")).split, training_of(load_benchmark("ade20k")).images
    ('ImageSets/Segmentation/train.txt', 'images/training/*.jpg')
    """

    def trained(path: str) -> str:
        return re.sub(r"\bval(idation)?(?=[/0-9.])", lambda match: "training" if match[1] else "train", path)

    own: dict[str, Any] = {name: getattr(benchmark, name) for name in ("images", "masks", "split")}
    changed: dict[str, Any] = {name: path and trained(path) for name, path in own.items()}
    if changed == own:
        raise DatasetError(
            f"{benchmark.name}: neither images nor split ({benchmark.images}, {benchmark.split}) names 'val' or "
            "'validation', which 'train' or 'training' would replace; so no training pictures are known."
        )
    return dataclasses.replace(benchmark, pictures=None, **changed)


def demo_set(scenes: int = DEMO_SCENES, size: tuple[int, int] = DEMO_SIZE, first: int = 0) -> EvaluationSet:
    """Scenes that the demo model was never trained on, drawn on the spot: a benchmark that is always there.

    Args:
        scenes: how many.
        size: (width, height) of each, pixels.
        first: number of the first.
    """
    from ..demo.scenes import HELD_OUT_FIRST_SEED, draw_scene
    from ..demo.sprites import CLASSES

    benchmark = Benchmark(
        name="demo",
        title="The demo's held-out scenes",
        classes=tuple((name,) for name in CLASSES),
        images="",
        masks="",
        presets={"sclip": DEMO_SETTINGS},
    )
    seeds = {f"scene_{index:04d}": HELD_OUT_FIRST_SEED + first + index for index in range(scenes)}

    def load(name: str) -> tuple[Image.Image, np.ndarray]:
        scene = draw_scene(seeds[name], size)
        positions = np.array([CLASSES.index(label) for label in scene.labels], np.int16)
        return scene.picture, positions[scene.label_map]

    source, training = f"demo scenes {size[0]} x {size[1]}", lambda: demo_set(DEMO_TRAINING, size, DEMO_FIRST)
    return EvaluationSet(benchmark, source, tuple(seeds), load, training=training)


def locate(benchmark: Benchmark, root: str | Path) -> Path:
    """The folder of a benchmark in a folder that holds several data sets.

    Looks in ``root`` itself and in the folders where MMSegmentation and Detectron2 expect the data set.

    Raises:
        DatasetError: it is in none of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{benchmark.name}: '{root}' is not a folder.")
    for folder in (".", *benchmark.folders):
        if next((root / folder).glob(benchmark.masks), None) and next((root / folder).glob(benchmark.images), None):
            return root / folder
    for folder in (".", *benchmark.folders):
        if next((root / folder).glob(benchmark.images), None):
            return root / folder  # masks are missing; whoever reads it says which
    looked_in = ", ".join((".", *benchmark.folders))
    raise DatasetError(f"{benchmark.name}: not in '{root}': looked in {looked_in}; found {listing(root)}.")
