"""CLIP-DINOiser's two convolutions (arXiv 2312.12359): what they are read from, and which block they look at."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..storage.tensors import Shape, load_tensors

CHECKPOINT: dict[str, Shape] = {
    "obj_proj.weight": ("E", "C", 3, 3),
    "obj_proj.bias": ("E",),
    "bkg_decoder.weight": (1, "C", 1, 1),
    "bkg_decoder.bias": (1,),
}


def load_dinoiser(path: str | Path) -> dict[str, Tensor]:
    """The four tensors of the authors' checkpoint, ``{"model_state_dict": …}``, or of a file that holds them alone.

    Raises:
        FileNotFoundError, FileFormatError: as `load_tensors`.
    """
    return load_tensors(path, CHECKPOINT, under="model_state_dict")


def intermediate_tap(depth: int) -> int:
    """The index of the block whose ln2 the convolutions read: the third from the end.

    The authors publish 12 blocks alone; the third from the end at other depths is ours.
    """
    return max(0, depth - 3)
