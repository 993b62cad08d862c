"""What a post-step is: a rule on the scores of all windows of a picture, before anything is upsampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import SettingError
from ..fields import check_fields


@dataclass(frozen=True, kw_only=True)
class PatchScores:
    """Everything that is known of a picture when its windows have gone through the tower.

    Attributes:
        scores: (n, h, w, K), of all n windows each patch and each name: cosines, or what an earlier step made of them.
        features: (n, h, w, D), the patches' unit features.
        text: (K, D), the names' unit embeddings.
        labels: the classes.
        class_of_name: (K,), of each name the index of its class.
        windows: (n, D), the unit image embedding of each window.
        image: (D,), that of the whole picture, squashed to the model's native size.
        boxes: (top, left, height, width) of each window, in ``pixels``.
        patch_size: (height, width) of a patch of the tower in pixels.
        pixels: (3, H, W) as windows were cut from it: uint8, or floating point and normalised; None where only the
            features are known.
        picture: as it was given, RGB; None where it is not known.
        logit_scale: the factor on cosines before a softmax, of the settings.
        image_mean, image_std: (3,), what pixels are normalised with.
        embed_text: names to their unit embeddings (K', D), through the settings' templates.
    """

    scores: Tensor
    features: Tensor
    text: Tensor
    labels: tuple[str, ...]
    class_of_name: tuple[int, ...]
    windows: Tensor
    image: Tensor
    boxes: tuple[tuple[int, int, int, int], ...]
    patch_size: tuple[int, int]
    pixels: Tensor | None
    picture: Image.Image | None
    logit_scale: float
    image_mean: Tensor
    image_std: Tensor
    embed_text: Callable[[Sequence[str]], Tensor]

    def window_pixels(self, multiple: tuple[int, int] = (1, 1)) -> Tensor:
        """All windows, (n, 3, H, W) of values 0 to 1; sides are completed in black to multiples of (height, width).

        Raises:
            SettingError: the picture is not known.
        """
        whole = plain_pixels(self.pixels, self.image_mean, self.image_std)
        windows = [whole[:, top : top + height, left : left + width] for top, left, height, width in self.boxes]
        height, width = windows[0].shape[1:]
        return F.pad(torch.stack(windows), (0, -width % multiple[1], 0, -height % multiple[0]))


def plain_pixels(pixels: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """(3, H, W) of values 0 to 1, of 8-bit or of normalised pixels.

    Raises:
        SettingError: they are not known.
    """
    if pixels is None:
        raise SettingError(
            "a post-step looks at the picture, which an encoded picture read from a file does not have; expected "
            "Encoded.load(path, segmenter, picture=...)."
        )
    if not pixels.is_floating_point():
        return pixels.float() / 255
    mean, std = (values.to(pixels.device)[:, None, None] for values in (mean, std))
    return pixels.float() * std + mean


@dataclass(frozen=True, kw_only=True)
class PostStep:
    """A rule on the scores of a picture. Subclass it as a frozen dataclass whose fields are the options.

    Any method can be followed by any steps: ``Settings(post_steps=("mine(alpha=0.5)",))``. Scores need not stay
    cosines; where they are probabilities already, ``Settings(softmax=False)`` takes them as they are.

    Class attributes:
        sees_pixels: it has a second part, `of_pixels`.
        name: the name in the registry, set by `register_step`.
        summary, source: one line each: what it does, and the paper.

    Example:
        >>> import sclip_plugin as sp
        >>> from dataclasses import dataclass
        >>> @sp.register_step("centred")
        ... @dataclass(frozen=True, kw_only=True)
        ... class Centred(sp.PostStep):
        ...     weight: float = 1.0
        ...     def __call__(self, given):
        ...         return given.scores - self.weight * given.scores.mean(dim=(0, 1, 2))
        >>> seg = sp.Segmenter.from_pretrained("demo", post_steps=["centred(weight=0.5)"])
    """

    sees_pixels: ClassVar[bool] = False
    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self, self.name or type(self).__name__)

    def __call__(self, given: PatchScores) -> Tensor:
        """New scores, (n, h, w, K), in the place of ``given.scores``."""
        raise NotImplementedError

    def of_pixels(self, scores: Tensor, pixels: Tensor) -> Tensor:
        """A second part, of steps that have `sees_pixels`: once windows are put together, scores of all pixels.

        Args:
            scores: (H, W, K), at the size at which windows were cut.
            pixels: (3, H, W), of values from 0 to 1.

        Returns:
            (H, W, K).
        """
        raise NotImplementedError
