"""Model names to models: ``HUB_ID_OR_FOLDER``, ``open_clip:…``, ``timm:…``, ``demo``.

Weights come as safetensors, or through ``torch.load(weights_only=True)``; no code from a hub is ever run.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .device import DTYPES, fastest_dtype
from .errors import ModelLoadError, unknown_name

DEMO = "demo"


@dataclass
class LoadedModel:
    """What a name stands for: a model in eval mode, its tokenizer, and how its pictures are normalised."""

    model: nn.Module
    tokenizer: Any
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None


def load_model(
    name: str, *, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> LoadedModel:
    """The model of a name; see `Segmenter.from_pretrained` for the forms of names, and for the arguments.

    Raises:
        ModelLoadError: the weights can't be had, the framework that reads them is not installed, or there is no such
            device.
        UnknownNameError: no such dtype.

    Example:
        >>> from sclip_plugin.loading import load_model
        >>> type(load_model("demo").model).__name__
        'CLIPModel'
    """
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelLoadError(
            f"the device '{device}' cannot be used; expected one that torch has here, such as cpu. The reason given: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if dtype == "auto":
        dtype = fastest_dtype(device)
    elif isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, ("auto", *DTYPES))
        dtype = DTYPES[dtype]
    framework, colon, rest = name.partition(":")
    loaders = {"open_clip": _load_open_clip, "timm": _load_timm}
    with _hub_within_reach():
        loaded = loaders[framework](rest) if colon and framework in loaders else _load_transformers(name)
    loaded.model = loaded.model.to(device=device, dtype=dtype or torch.float32).eval()
    return loaded


def _load_transformers(name: str) -> LoadedModel:
    transformers = _need("transformers", "transformers", name)
    if name == DEMO:
        from .demo import demo_model

        source = str(demo_model())
    else:
        source = name
        folder = Path(name).expanduser()
        if folder.is_dir():
            source = str(folder)
            if not (folder / "config.json").exists():
                raise ModelLoadError(
                    f"the folder {name} holds no config.json; expected a model folder as save_pretrained writes it."
                )
        elif folder.exists():
            raise ModelLoadError(
                f"{name} is a file; name a model folder as save_pretrained writes it, or open_clip:ARCH@{name} "
                "for a checkpoint of open_clip."
            )
    try:
        model = transformers.AutoModel.from_pretrained(source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _cannot_fetch(name, error) from error
    mean, std = _normalisation(source)
    return LoadedModel(model, tokenizer, mean, std)


@contextlib.contextmanager
def _hub_within_reach() -> Iterator[None]:
    """Where the hub's name does not resolve, its client is offline for a while: it would retry for half a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:  # no framework at all: said by the loader
        yield
        return
    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _normalisation(source: str) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation out of preprocessor_config.json, if the model has one."""
    from transformers.utils import cached_file

    path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None, None
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    config = config.get("image_processor", config)
    return config.get("image_mean"), config.get("image_std")


def _load_open_clip(name: str) -> LoadedModel:
    open_clip = _need("open_clip", "open_clip", f"open_clip:{name}")
    arch, separator, weights = name.partition("@" if "@" in name else "/")
    if not separator or not weights:
        raise ModelLoadError(
            f"open_clip:{name} does not say which weights; expected open_clip:ARCH/PRETRAINED, for instance "
            "open_clip:ViT-B-16/openai, or open_clip:ARCH@FILE for a checkpoint on disk."
        )
    if arch not in open_clip.list_models():
        raise ModelLoadError(str(unknown_name("open_clip architecture", arch, open_clip.list_models())))
    if separator == "@":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ModelLoadError(f"open_clip:{name}: no such file: {weights}")
        weights = str(path)
    elif weights not in open_clip.list_pretrained_tags_by_model(arch):
        known = open_clip.list_pretrained_tags_by_model(arch)
        raise ModelLoadError(str(unknown_name(f"pretrained weights of {arch}", weights, known)))
    try:
        model, _, transform = open_clip.create_model_and_transforms(arch, pretrained=weights)
    except Exception as error:  # whatever the hub's client or a broken file raises
        raise _cannot_fetch(f"open_clip:{name}", error) from error
    mean, std = _mean_std(transform)
    return LoadedModel(model, open_clip.get_tokenizer(arch), mean, std)


def _mean_std(transform: Any) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Of a torchvision transform's Normalize."""
    for step in getattr(transform, "transforms", []):
        if hasattr(step, "mean") and hasattr(step, "std"):
            return [float(v) for v in step.mean], [float(v) for v in step.std]
    return None, None


class TimmCLIP(nn.Module):
    """An image tower of timm beside the text tower that it was trained with.

    Attributes:
        visual: the timm model, whose head projects into the joint space.
        text: open_clip's model without its image tower.
    """

    def __init__(self, visual: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.text = text


def timm_text_tower(name: str) -> tuple[str, str]:
    """open_clip's (architecture, pretrained tag) of the text tower that a timm CLIP model was trained with.

    Raises:
        ModelLoadError: not a CLIP image tower, or weights fine-tuned away from their text tower.

    >>> timm_text_tower("vit_base_patch16_clip_224.openai")
    ('ViT-B-16-quickgelu', 'openai')
    """
    table = json.loads(package_files("sclip_plugin").joinpath("data/timm_text_towers.json").read_text())
    match = re.fullmatch(r"vit_(\w+?)_patch(\d+)(_plus)?_clip_(?:quickgelu_)?(\d+)\.(\w+)", name)
    if match:
        size, patch, plus, pixels, tag = match.groups()
        arch = f"{table['sizes'].get(size, size)}-{patch}" + ("-plus" if plus else "")
        tags = table["weights"].get(tag, {})
        entry = tags.get(f"{arch}-{pixels}") or tags.get(arch)
        if entry:
            return entry[0], entry[1]
    known = "vit_base_patch16_clip_224.openai, vit_large_patch14_clip_224.laion2b, vit_base_patch16_clip_224.dfn2b"
    raise ModelLoadError(
        f"timm:{name} has no text tower that is known here. What works are timm's CLIP image towers with the weights "
        f"they were trained with beside their text (not those fine-tuned on ImageNet), such as {known}."
    )


def _load_timm(name: str) -> LoadedModel:
    timm = _need("timm", "timm", f"timm:{name}")
    open_clip = _need("open_clip", "timm", f"timm:{name}")
    arch, tag = timm_text_tower(name)
    try:
        visual = timm.create_model(name, pretrained=True)
        text = open_clip.create_model(arch, pretrained=tag)
    except Exception as error:  # whatever the hubs' clients raise
        raise _cannot_fetch(f"timm:{name}", error) from error
    text.visual = None
    config = visual.pretrained_cfg
    return LoadedModel(TimmCLIP(visual, text), open_clip.get_tokenizer(arch), config["mean"], config["std"])


def _need(module: str, extra: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"model '{name}' needs {module}, which is not installed: pip install \"sclip_plugin[{extra}]\"."
        ) from error


def _cannot_fetch(name: str, error: Exception) -> ModelLoadError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
    return ModelLoadError(
        f"the model '{name}' could not be fetched or read. A local folder works (as save_pretrained writes it), and "
        f"'{DEMO}' works now. The reason given: {reason}."
    )
