"""The eight benchmarks, and what other projects prepared of them, in Detectron2's catalog.

The folder that holds the data sets is ``DETECTRON2_DATASETS``, else ``datasets``, as everywhere in Detectron2; it is
looked at when a data set is read, not when it is registered.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from sclip_plugin.draw.colours import colours_of
from sclip_plugin.evaluation import DatasetError, find_samples
from sclip_plugin.evaluation.sets import locate
from sclip_plugin.protocols import Benchmark, list_benchmarks, load_benchmark

from .masks import mask_path

logger = logging.getLogger(__name__)


def register_benchmarks() -> None:
    """Register each of the eight as ``sclip_NAME_sem_seg_val``: ``sclip_voc21_sem_seg_val``. Done on import."""
    for name in list_benchmarks():
        register_benchmark(load_benchmark(name))


def register_benchmark(benchmark: Benchmark, root: str | Path | None = None) -> str:
    """Register a benchmark as a data set to evaluate on; one that is registered already stays as it is.

    Its records have "file_name", "image_id" and "sem_seg_file_name" (see `masks`); its metadata ``stuff_classes``,
    ``stuff_colors``, ``ignore_label`` and ``evaluator_type`` "sem_seg".

    Args:
        benchmark: from `sclip_plugin.protocols.load_benchmark`, which also reads a YAML file of your own.
        root: the data set's folder; None to look for it in ``DETECTRON2_DATASETS``.

    Returns:
        The name it is registered under.

    Example:
        >>> register_benchmark(load_benchmark("voc21"))
        'sclip_voc21_sem_seg_val'
    """
    name = f"sclip_{benchmark.name}_sem_seg_val"
    _register(name, benchmark, partial(_records, benchmark, root))
    return name


def register_prepared_datasets() -> list[str]:
    """Register data sets under the names, and in the folders, of CAT-Seg, SAN and OVSeg, as their scripts prepare them.

    Names that are taken stay as they are, so it does no harm where one of those projects is imported too, before this
    call. (After it, their own registration would fail on the names: Detectron2 allows each only once.)

    Returns:
        The names that were added.
    """
    added = []
    for name, entry in _prepared().items():
        load = partial(_prepared_records, entry["images"], entry["masks"])
        if _register(name, load_benchmark(entry["benchmark"]), load):
            added.append(name)
    return added


def _register(name: str, benchmark: Benchmark, load: Any) -> bool:
    if name in DatasetCatalog:
        return False
    DatasetCatalog.register(name, load)
    classes = list(benchmark.class_names)
    MetadataCatalog.get(name).set(
        stuff_classes=classes,
        stuff_colors=colours_of(classes).tolist(),
        ignore_label=benchmark.ignore_index,
        evaluator_type="sem_seg",
    )
    return True


def _records(benchmark: Benchmark, root: str | Path | None) -> list[dict[str, Any]]:
    """The pictures of a benchmark that have a mask; what is wrong with others is said once."""
    try:
        samples, problems = find_samples(benchmark, root if root is not None else locate(benchmark, _datasets_root()))
    except DatasetError as error:
        raise DatasetError(f"{error}{_prepared_hint(benchmark)}") from error
    for kind, count in Counter(problem.kind for problem in problems).items():
        first = next(problem for problem in problems if problem.kind == kind)
        logger.warning("%s: %d left out or counted once; %s: %s", benchmark.name, count, kind, first)
    return [
        {
            "file_name": str(sample.image_path),
            "image_id": sample.name,
            "sem_seg_file_name": mask_path(benchmark, sample.mask_path),
        }
        for sample in samples
    ]


def _prepared_records(images: str, masks: str) -> list[dict[str, Any]]:
    """As ``load_sem_seg``: pictures and masks of the same name. Prepared masks hold classes already."""
    from detectron2.data.datasets import load_sem_seg

    root = _datasets_root()
    for folder in (root / images, root / masks):
        if not folder.is_dir():
            raise DatasetError(f"no folder '{folder}'; DETECTRON2_DATASETS is '{root}'.")
    return load_sem_seg(str(root / masks), str(root / images), gt_ext="png", image_ext="jpg")


def _prepared_hint(benchmark: Benchmark) -> str:
    """Which data set's name fits masks that another project's script has prepared in the folder."""
    found = [
        f"'{name}' ({entry['project']})"
        for name, entry in _prepared().items()
        if entry["benchmark"] == benchmark.name and (_datasets_root() / entry["masks"]).is_dir()
    ]
    return f" Prepared masks are there; they are the data set {' or '.join(found)}." if found else ""


def _datasets_root() -> Path:
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


@cache
def _prepared() -> dict[str, dict[str, str]]:
    return yaml.safe_load(Path(__file__).with_name("prepared_datasets.yaml").read_text(encoding="utf-8"))
