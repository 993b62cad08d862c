"""What a guide is: a frozen vision model beside CLIP, which lends a method its sharper features.

A guide knows how its authors show it a picture (normalisation, size, positions) and gives features on its own grid.
It knows no method, and no text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GuideView(ABC):
    """What a guide saw in a batch of pictures; each part is computed when it is first asked for.

    Attributes:
        grid: (a, b), the guide's own patches; n = a b, in row-major order.
    """

    grid: tuple[int, int]

    @property
    @abstractmethod
    def tokens(self) -> Tensor:
        """The features, (B, n, C'): after the last block and the final norm; of SAM, behind the neck."""

    @abstractmethod
    def heads(self, name: str) -> Tensor:
        """``"q"``, ``"k"`` or ``"v"`` of the last block, (B, J, n, d)."""

    @abstractmethod
    def attention(self, head: int, rows: slice | Tensor) -> Tensor:
        """Rows of the last block's attention after the softmax, one head's, over all patches: (B, rows, n).

        Prefix tokens take their share of the softmax and are left out; n x n maps of all heads at once would not fit.
        """


class Guide(ABC):
    """A vision model without text. Register a subclass with `register_guide`.

    Args:
        module: the model, on its device and in its dtype; put into eval mode, otherwise left as it is.
        position_resize: how positions reach another grid, see `Method`; None for the way of the model's authors.

    Attributes:
        module: as given.
        patch_size: (height, width) of a patch in pixels.
        position_resize: as given, or the authors'.
    """

    name: ClassVar[str] = ""
    models: ClassVar[str] = ""
    """What it supports, in a few words for error messages."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    normalised_as_published: ClassVar[bool] = False
    """Whether what is published with weights of a name, in an image processor or by timm, says mean and std."""
    authors_norm_eps: ClassVar[float | None] = None
    """The epsilon of the authors' LayerNorms, where a library's configs have another; `load_guide` sets it."""

    patch_size: tuple[int, int]

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        self.module: Any = module.eval()
        self.position_resize = position_resize or self.authors_position_resize(module)

    @classmethod
    @abstractmethod
    def knows(cls, module: nn.Module) -> bool:
        """Whether a model is one of this kind, by structure or by what its config says."""

    @classmethod
    def authors_position_resize(cls, module: nn.Module) -> str:
        return "scale_factor"

    @abstractmethod
    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patches (a, b) of a picture of (height, width) pixels."""

    @abstractmethod
    def look(self, pixels: Tensor) -> GuideView:
        """See a batch of pictures: (B, 3, H, W), values 0 to 1, any device and floating-point dtype."""

    def normalised(self, pixels: Tensor) -> Tensor:
        """Values 0 to 1 to what the model reads, in its dtype and on its device."""
        weight = next(self.module.parameters())
        mean, std = (torch.tensor(values, device=weight.device)[:, None, None] for values in (self.mean, self.std))
        return ((pixels.to(weight.device).float() - mean) / std).to(weight.dtype)


class OwnSizeGuide(Guide):
    """Looks at a picture at its own size; rows and columns of pixels that fill no patch are not seen."""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        a, b = (max(1, side // patch) for side, patch in zip(size, self.patch_size, strict=True))
        return a, b

    def shown(self, pixels: Tensor) -> Tensor:
        """Normalised pixels; a side of less than one patch is stretched to one."""
        height, width = (max(side, patch) for side, patch in zip(pixels.shape[-2:], self.patch_size, strict=True))
        return stretched(self.normalised(pixels), (height, width))


def stretched(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear without antialiasing, (B, 3, H, W) to ``size``; the same pixels where they have it."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False).to(pixels.dtype)
