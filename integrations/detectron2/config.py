"""The config node ``MODEL.SCLIP``, and what it says to a segmenter.

A key that is null keeps what the preset says, or, without a preset, what `sclip_plugin.Segmenter` does by default.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from sclip_plugin.defaults import DEFAULT_MODEL
from sclip_plugin.errors import LabelError, SettingError, unknown_name
from sclip_plugin.protocols import load_benchmark, load_preset
from sclip_plugin.settings import Settings
from sclip_plugin.text.files import read_labels
from sclip_plugin.text.labels import Labels

CONFIGS = Path(__file__).parent / "configs"

# A key for each field of `sclip_plugin.settings.Settings`, and for ``refine``. Every pixel of a semantic segmentation
# has a class, so there is no ``threshold`` below which it has none, and no word to ``ignore``.
SETTINGS = (*(field.name.upper() for field in dataclasses.fields(Settings) if field.name != "ignore"), "REFINE")


def add_sclip_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.SCLIP`` to a config; where there is no CUDA, ``MODEL.DEVICE`` becomes ``"cpu"``.

    Args:
        cfg: of ``detectron2.config.get_cfg()``; changed in place.

    Example:
        >>> from detectron2.config import get_cfg
        >>> cfg = get_cfg()
        >>> add_sclip_config(cfg)
        >>> cfg.merge_from_list(["MODEL.SCLIP.METHOD", "'naclip(std=4.0)'", "MODEL.SCLIP.STEPS", "'pamr, closing(3)'"])
        >>> cfg.MODEL.SCLIP.METHOD
        'naclip(std=4.0)'
    """
    node = CfgNode()
    # A model by name, as `sclip_plugin.Segmenter.from_pretrained` takes it.
    node.NAME = DEFAULT_MODEL
    # Settings and classes as the authors evaluate a benchmark, such as "sclip/voc21".
    node.PRESET = None
    # Classes: a list of names, in which a list names synonyms of one class; or a text with commas.
    node.CLASSES = None
    # Or a file of them (see `read_classes`), or the name of a data set whose metadata have stuff_classes.
    node.CLASSES_FILE = None
    node.CLASSES_FROM = None
    for key in SETTINGS:
        node[key] = None
    cfg.MODEL.SCLIP = node
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"


def config_file(name: str) -> str:
    """The path of a config that ships with the package.

    Args:
        name: a benchmark (``"voc21"``); ``"sclip"`` for classes of your own; ``"lazy/voc21"`` for a LazyConfig.

    Raises:
        UnknownNameError: there is none of this name.

    Example:
        >>> Path(config_file("voc21")).name
        'voc21.yaml'
    """
    paths = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in CONFIGS.rglob("*.*")}
    known = [found for found, path in paths.items() if path.suffix in (".yaml", ".py") and "common" not in path.parts]
    if name not in known:
        raise unknown_name("config", name, known)
    return str(paths[name])


def read_classes(path: str | Path) -> Labels:
    """Classes out of a file, by the rule for all files of labels; see `sclip_plugin.text.files.read_labels`.

    Raises:
        LabelError: no such file, or one that names no classes.
    """
    return read_labels(path)


def classes_of(cfg: CfgNode) -> Labels | None:
    """The classes that a config names: its own, else the preset's, else those of the first data set to test on.

    Returns:
        None where nothing names any; `SCLIPSegmentor.set_classes` can name them later.

    Raises:
        ValueError: more than one of CLASSES, CLASSES_FILE and CLASSES_FROM is given.
        LabelError: the data set of CLASSES_FROM has no ``stuff_classes``.
    """
    node = cfg.MODEL.SCLIP
    given = [key for key in ("CLASSES", "CLASSES_FILE", "CLASSES_FROM") if node[key]]
    if len(given) > 1:
        raise SettingError(f"MODEL.SCLIP has {' and '.join(given)}; give one of them, and null for the others.")
    if node.CLASSES:
        return node.CLASSES
    if node.CLASSES_FILE:
        return read_classes(node.CLASSES_FILE)
    if node.CLASSES_FROM:
        classes = MetadataCatalog.get(node.CLASSES_FROM).get("stuff_classes")
        if not classes:
            raise LabelError(
                f"MODEL.SCLIP.CLASSES_FROM names the data set '{node.CLASSES_FROM}', whose metadata have no "
                "stuff_classes; register it first, or give MODEL.SCLIP.CLASSES."
            )
        return list(classes)
    if node.PRESET:
        preset = load_preset(node.PRESET)
        names = load_benchmark(node.PRESET.partition("/")[2]).class_names
        return dict(zip(names, preset.classes, strict=True))
    for dataset in cfg.DATASETS.TEST[:1]:
        return list(MetadataCatalog.get(dataset).get("stuff_classes") or ()) or None
    return None


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """What a config sets, as arguments of `sclip_plugin.Segmenter`; keys that are null are left out."""
    node = cfg.MODEL.SCLIP
    return {key.lower(): node[key] for key in SETTINGS if node[key] is not None}
