"""What a post-step is: a rule on the scores of all windows of a picture, before anything is upsampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import SettingError
from ..fields import check_fields
from ..towers import Tower
from ..towers.running import Context, before_last_block


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
        tower: the image tower.
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
    tower: Tower

    def looks(self, taps: tuple[int, ...], position_resize: str, at_once: int = 8) -> Iterator[tuple[int, Context]]:
        """The windows through the tower once more up to its last block, for steps that look at earlier blocks.

        Args:
            taps: indices of the blocks whose input is kept, the last one's among them if it is wanted.
            position_resize: how positional embeddings reach the windows' grid; see `Method`.
            at_once: windows that go together.

        Yields:
            The number of the first window of each part, and its context.

        Raises:
            SettingError: the picture is not known, or a method gave the scores another grid than the tower's.
        """
        grid = (self.scores.shape[1], self.scores.shape[2])
        windows = self.window_pixels()
        height, width = (
            max(0, count * patch - side)
            for count, patch, side in zip(grid, self.patch_size, windows.shape[2:], strict=True)
        )
        mean, std = (values.to(windows.device)[:, None, None] for values in (self.image_mean, self.image_std))
        windows = ((F.pad(windows, (0, width, 0, height)) - mean) / std).to(self.scores.device)
        for first in range(0, len(windows), at_once):
            block, context = before_last_block(self.tower, windows[first : first + at_once], taps, position_resize)
            if tuple(context.grid) != grid:
                raise SettingError(
                    f"a post-step looks at the tower's own {context.grid[0]} x {context.grid[1]} patches, and the "
                    f"method's scores are on {grid[0]} x {grid[1]}; choose a method that keeps the tower's grid."
                )
            context.taps[context.depth - 1] = block
            yield first, context

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
