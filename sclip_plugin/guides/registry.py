"""The registry of guides, and how a name or a model becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import ArgumentTypeError, ModelLoadError, UnsupportedModelError
from ..registry import Registry
from .base import Guide

GUIDES: Registry[type[Guide]] = Registry("guide", "sclip_plugin.guides")
"""Maps a name to a `Guide` subclass; its ``knows(module)`` is asked in the order of registration."""

_LOADED: dict[tuple[str, str, torch.dtype], Guide] = {}
_OF_MODULE: WeakKeyDictionary[nn.Module, Guide] = WeakKeyDictionary()


def register_guide(name: str, *, replace: bool = False):
    """Class decorator: make a `Guide` subclass known to everything that takes an outside model.

    An installed package can do the same with an entry point in the group ``sclip_plugin.guides``.
    """
    return GUIDES.register(name, replace=replace)


def list_guides() -> tuple[str, ...]:
    """Names of all kinds of guides, those of installed entry points included.

    Example:
        >>> from sclip_plugin.guides import list_guides
        >>> {"dino", "dinov2", "mae", "sam"} <= set(list_guides())
        True
    """
    return GUIDES.names()


def find_guide(module: nn.Module, kind: str | None = None, position_resize: str | None = None) -> Guide:
    """The guide that a model in hand is.

    Args:
        module: of transformers or timm.
        kind: a name of `list_guides`, where the model does not say it itself: weights of MAE in a ``ViTModel``.
        position_resize: see `Guide`.

    Raises:
        UnsupportedModelError: no registered guide knows the model; what works is listed.
        UnknownNameError: no such kind.
    """
    for name in (kind,) if kind else list_guides():
        if GUIDES[name].knows(module) or kind:
            return GUIDES[name](module, position_resize)
    supported = "\n  ".join(GUIDES[name].models or name for name in list_guides())
    raise UnsupportedModelError(
        f"{type(module).__name__} is not an outside vision model that is known here. What works:\n  {supported}"
    )


def as_guide(given: str | nn.Module | Guide, *, device: torch.device, dtype: torch.dtype) -> Guide:
    """What a method's option names, as a guide beside a tower: on its device and in its dtype.

    A name is loaded once for each device and dtype, and shared. A module in hand, or a guide made of one, is used as it
    is, on its own device and in its own dtype: it is never moved or cast.

    Args:
        given: ``"facebook/dino-vitb8"`` or another name of transformers, a folder, ``"timm:vit_base_patch8_224.dino"``;
            before it a kind and ``@`` where the weights do not say it: ``"mae@folder"``. Or a module, or a `Guide`.
        device, dtype: of the tower.

    Raises:
        ModelLoadError: a name that cannot be resolved to weights.
        UnsupportedModelError: no registered guide knows the model.
    """
    if isinstance(given, Guide):
        return given
    if isinstance(given, nn.Module):
        if given not in _OF_MODULE:
            _OF_MODULE[given] = find_guide(given)
        return _OF_MODULE[given]
    if not isinstance(given, str) or not given:
        raise ArgumentTypeError(
            f"an outside model was given as {given!r}; expected a name such as 'facebook/dino-vitb8', a folder, "
            "'timm:vit_base_patch8_224.dino', or a model in hand."
        )
    key = (given, str(device), dtype)
    if key not in _LOADED:
        guide = load_guide(given)
        guide.module.to(device=device, dtype=dtype)
        _LOADED[key] = guide
    return _LOADED[key]


def load_guide(name: str, position_resize: str | None = None) -> Guide:
    """The guide of a name, in single precision on the CPU; see `as_guide` for the forms of names.

    LayerNorms get the authors' epsilon, 1e-6, where the library's config has another one (transformers' 1e-12). A plain
    ViT is normalised as its image processor or timm's configuration of its weights says, where there is one.
    """
    kind, at, source = name.partition("@")
    if not at or kind not in list_guides():
        kind, source = "", name
    module = _load_timm(source) if source.startswith("timm:") else _load_transformers(source)
    guide = find_guide(module, kind or None, position_resize)
    if guide.normalised_as_published and (found := _normalisation(module, source)):
        guide.mean, guide.std = found
    if guide.authors_norm_eps is not None:
        for part in module.modules():
            if isinstance(part, nn.LayerNorm) and part.eps == 1e-12:
                part.eps = guide.authors_norm_eps
    return guide


def _load_transformers(name: str) -> nn.Module:
    transformers = _library("transformers", name)
    folder = Path(name).expanduser()
    options: dict[str, Any] = {"trust_remote_code": False, "torch_dtype": torch.float32}
    try:
        model, info = transformers.AutoModel.from_pretrained(
            str(folder) if folder.is_dir() else name, output_loading_info=True, **options
        )
    except Exception as error:  # whatever the hub's client, a parser or a broken file raises
        raise _cannot_load(name, error) from error
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # DINO's folders have no pooler
    if missing:
        raise ModelLoadError(
            f"the checkpoint of the outside model '{name}' lacks weights that its {type(model).__name__} needs, such "
            f"as {sorted(missing)[0]} ({len(missing)} in all): it would be read with random ones."
        )
    return model


def _normalisation(module: nn.Module, source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that are published with the weights of a name, or None."""
    if source.startswith("timm:"):
        published: Any = {} if "@" in source else getattr(module, "pretrained_cfg", {})  # a file has no configuration
        mean, std = published.get("mean"), published.get("std")
    else:
        folder = Path(source).expanduser()
        try:
            processor = _library("transformers", source).AutoImageProcessor.from_pretrained(
                str(folder) if folder.is_dir() else source, trust_remote_code=False
            )
        except Exception:  # whatever is wrong with one that is not needed
            return None
        normalises = getattr(processor, "do_normalize", False)
        mean, std = (getattr(processor, name, None) if normalises else None for name in ("image_mean", "image_std"))
    return (tuple(mean), tuple(std)) if mean and std else None


def _load_timm(name: str) -> nn.Module:
    timm = _library("timm", name)
    arch, _, file = name.removeprefix("timm:").partition("@")
    try:
        options = {"checkpoint_path": str(Path(file).expanduser())} if file else {"pretrained": True}
        return timm.create_model(arch, num_classes=0, dynamic_img_size=True, **options)
    except Exception as error:  # whatever the hub's client or a broken file raises
        raise _cannot_load(name, error) from error


def _library(module: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"the outside model '{name}' needs {module}, which is not installed: "
            f'pip install "sclip_plugin[{module}]".'
        ) from error


def _cannot_load(name: str, error: Exception) -> ModelLoadError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelLoadError(
        f"the outside model '{name}' could not be fetched or read. A local folder works (as save_pretrained writes "
        f"it), and so does a model in hand. The reason given: {reason[:300]}"
    )
