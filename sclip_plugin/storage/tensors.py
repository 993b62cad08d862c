"""Tensors out of a checkpoint file, checked by name and shape; nothing in the file is run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileFormatError

Shape = tuple[int | str, ...]
"""Sizes; a letter in the place of a size stands for one size wherever it stands."""


def load_tensors(path: str | Path, shapes: Mapping[str, Shape], under: str = "") -> dict[str, Tensor]:
    """The named tensors of a file, in single precision on the CPU; others that it holds are left alone.

    Args:
        path: of ``torch.save``, read with ``weights_only``, or of safetensors, whatever its suffix.
        shapes: of each tensor that is wanted, such as ``{"conv.weight": ("E", "C", 3, 3), "conv.bias": ("E",)}``.
        under: the name under which a checkpoint keeps its tensors, such as ``"model_state_dict"``; where it does not,
            they are looked for at the top.

    Raises:
        FileNotFoundError: no such file.
        FileFormatError: no such file format, a tensor that is missing, of another shape, or not of numbers.
    """
    path = Path(path).expanduser()
    return dict(_load(path, path.stat().st_mtime_ns, tuple(shapes.items()), under))


@functools.lru_cache(maxsize=8)
def _load(path: Path, changed: int, shapes: tuple[tuple[str, Shape], ...], under: str) -> dict[str, Tensor]:
    held = read_checkpoint(path)
    held = held[under] if isinstance(held, Mapping) and isinstance(held.get(under), Mapping) else held
    if not isinstance(held, Mapping):
        raise FileFormatError(f"{path} holds a {type(held).__name__}; expected tensors by name: {_listed(shapes)}.")
    sizes: dict[str, int] = {}
    found = {}
    for name, shape in shapes:
        tensor = held.get(name)
        if not isinstance(tensor, Tensor):
            raise FileFormatError(f"{path} holds no tensor {name!r}; expected {_listed(shapes)}.")
        fits = tensor.dim() == len(shape) and all(
            size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
            for size, wanted in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            raise FileFormatError(f"{path}: {name!r} has shape {tuple(tensor.shape)}; expected {_listed(shapes)}.")
        if not (tensor.is_floating_point() and torch.isfinite(tensor).all()):
            raise FileFormatError(f"{path}: {name!r}, of {tensor.dtype}, does not hold finite floating point numbers.")
        found[name] = tensor.detach().float()
    return found


def read_checkpoint(path: Path) -> Any:
    """What a file of safetensors or ``torch.save`` holds.

    Raises:
        FileFormatError: neither, or it would run code.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    try:
        if head[8:] == b"{":
            import safetensors.torch

            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or foreign file makes of the readers
        raise FileFormatError(f"{path} can't be read as safetensors or as torch.save's tensors: {error}") from error


def _listed(shapes: tuple[tuple[str, Shape], ...]) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes)
