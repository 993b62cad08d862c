"""What a refinement is: a rule on a picture's labels and class scores, once they are decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from ..fields import check_fields


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """A picture with the label and the scores of each pixel.

    Attributes:
        scores: (K, H, W) float32, of each class.
        labels: (H, W) int64, the class of each pixel, thresholds applied; -1 where it was left unlabelled.
        picture: RGB, as it was given; it may be larger than the labels.
        patch_size: (height, width) of a patch of the tower in pixels.
        device, dtype: where the tower is, and in which precision: for an outside model beside it.
    """

    scores: Tensor
    labels: Tensor
    picture: Image.Image
    patch_size: tuple[int, int] = (1, 1)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """A rule on decided labels. Subclass it as a frozen dataclass whose fields are the options.

    Any method can be followed by one: ``Settings(refine="mine(alpha=0.5)")``.

    Class attributes:
        name: the name in the registry, set by `register_refinement`.
        summary, source: one line each: what it does, and the paper.

    Example:
        >>> import sclip_plugin as sp
        >>> from dataclasses import dataclass
        >>> from sclip_plugin.refinements import Refinement, register_refinement
        >>> @register_refinement("sure")
        ... @dataclass(frozen=True, kw_only=True)
        ... class Sure(Refinement):
        ...     least: float = 0.5
        ...     def __call__(self, given):
        ...         return given.labels.where(given.scores.amax(dim=0) >= self.least, -1), given.scores
        >>> seg = sp.Segmenter.from_pretrained("demo", refine="sure(least=0.3)")
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self, self.name or type(self).__name__)

    def __call__(self, given: LabelledPicture) -> tuple[Tensor, Tensor]:
        """New labels (H, W) and scores (K, H, W), in the place of those given."""
        raise NotImplementedError
