"""`Step`: a rule on scores or labels, and the three contexts that steps receive.

A step has one place. On ``"patches"`` it changes the scores of all windows' patches. On ``"pixels"`` it changes the
scores of pixels, after windows are stitched. On ``"labels"`` it changes the label map. Steps run in the order of their
list, patches before pixels before labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..device import Budget
from ..errors import SettingError
from ..grammar import Part
from ..imaging.resampling import normalise, to_picture
from ..imaging.tiles import TiledMap
from ..text.labels import Vocabulary
from .scores import ClassScores, Kind

if TYPE_CHECKING:
    from ..towers.running import Context

Place = Literal["patches", "pixels", "labels"]
PLACES: tuple[Place, ...] = ("patches", "pixels", "labels")


@dataclass(frozen=True)
class Words:
    """The words of a question.

    Attributes:
        vocabulary: classes and their names.
        text: (K, D) float32, unit embeddings of all names.
        templates: the prompts of the embeddings.
        logit_scale: factor on scores before the softmax over names.
        embed: function from names, and templates if not the same, to unit embeddings (K', D).
    """

    vocabulary: Vocabulary
    text: Tensor
    templates: tuple[str, ...]
    logit_scale: float
    embed: Callable[..., Tensor] = field(repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.vocabulary.labels

    @property
    def class_of_name(self) -> tuple[int, ...]:
        return tuple(self.vocabulary.class_of_name)


@dataclass(frozen=True)
class Shown:
    """The picture, as far as it is known.

    Attributes:
        original: the given picture, RGB; None if unknown.
        pixels: (3, H, W), the resized picture that windows are cut from: uint8, or floating point and normalised; None
            if only features are known.
        mean, std: (3,), normalisation of the pixels.
        regions: function that gives the id map (H, W) int32 of the settings' masks, at the size of the label map; None
            without masks.
    """

    original: Image.Image | None
    pixels: Tensor | None
    mean: Tensor
    std: Tensor
    regions: Callable[[], np.ndarray] | None = None

    def known_pixels(self) -> Tensor:
        """``pixels``.

        Raises:
            SettingError: the pixels are unknown.
        """
        if self.pixels is None:
            raise SettingError(
                "a step looks at the picture, which an encoded picture read from a file does not have; expected "
                "Encoded.load(path, segmenter, picture=...)."
            )
        return self.pixels

    def plain(self) -> Tensor:
        """(3, H, W), values 0 to 1: the resized picture that windows are cut from."""
        pixels = self.known_pixels()
        if not pixels.is_floating_point():
            return pixels.float() / 255
        mean, std = (values.to(pixels.device)[:, None, None] for values in (self.mean, self.std))
        return pixels.float() * std + mean

    def normalised(self) -> Tensor:
        """(3, H, W), normalised as the tower expects."""
        return normalise(self.known_pixels(), self.mean, self.std)

    def picture(self) -> Image.Image:
        """The given picture, or its pixels rounded to 8 bits."""
        return self.original or to_picture(self.known_pixels(), self.mean, self.std)

    def known_regions(self, who: str) -> np.ndarray:
        """The id map of the settings' masks.

        Raises:
            SettingError: the settings have no masks.
        """
        if self.regions is None:
            raise SettingError(f"{who} needs regions; also pass masks='slic' or masks='sam:NAME'.")
        return self.regions()


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Context of a step on scores.

    Attributes:
        kind: the kind of the scores: cosine, logit or probability.
        words: the words of the question.
        shown: the picture.
        model: function that gives a hash of the model's weights and normalisation.
        limits: batch and tile sizes; None: the device's defaults.
    """

    kind: Kind
    words: Words
    shown: Shown
    model: Callable[[], str] = field(repr=False)
    limits: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class PatchScores(_Given):
    """Context of a step on patches; `Words` and `Shown` describe ``words`` and ``shown``.

    Attributes:
        scores: (n, h, w, K), scores of n windows, h x w patches and K names.
        features: (n, h, w, D), unit features of the patches.
        windows: (n, D), unit image embedding of each window.
        image: (D,), unit image embedding of the whole picture, resized to the model's native size.
        boxes: (top, left, height, width) of each window, in pixels of the resized picture.
        patch_size: (height, width) of the tower's patch in pixels.
        looked: results of the step's own `Step.look` for all windows, (n, ...); None without taps.
        pixels_of: function from the values of a window's patches (h, w, C) to those of its pixels.
        embed_pixels: function from normalised pixels (B, 3, H, W) to the model's own unit image embeddings (B, D).
    """

    scores: Tensor
    features: Tensor
    windows: Tensor
    image: Tensor
    boxes: tuple[tuple[int, int, int, int], ...]
    patch_size: tuple[int, int]
    looked: Tensor | None = None
    pixels_of: Callable[[Tensor], TiledMap] = field(repr=False)
    embed_pixels: Callable[[Tensor], Tensor] = field(repr=False)

    def window_pixels(self, multiple: tuple[int, int] = (1, 1)) -> Tensor:
        """All windows, (n, 3, H, W), values 0 to 1, padded with black to multiples of (height, width).

        Raises:
            SettingError: the picture is unknown.
        """
        whole = self.shown.plain()
        windows = [whole[:, top : top + height, left : left + width] for top, left, height, width in self.boxes]
        height, width = windows[0].shape[1:]
        return F.pad(torch.stack(windows), (0, -width % multiple[1], 0, -height % multiple[0]))


@dataclass(frozen=True, kw_only=True)
class PixelScores(_Given):
    """Context of a step on pixels.

    Attributes:
        at: function from (height, width) to the scores at that size, a map that is computed in tiles.
        cut: (height, width) of the resized picture that windows are cut from.
        size: (height, width) of the label map.
        device: device of the scores.
    """

    at: Callable[[tuple[int, int]], TiledMap] = field(repr=False)
    cut: tuple[int, int]
    size: tuple[int, int]
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Context and result of a step on labels: a label map, and the scores that decided it.

    Attributes:
        labels: (H, W) int16, the class of each pixel; -1: unlabelled.
        scores: scores of the classes, computed on demand.
        vocabulary: classes and their names.
        shown: the picture.
        patch_size: (height, width) of the tower's patch in pixels.
        device, dtype: device and precision of the tower, for an outside model beside it.
    """

    labels: np.ndarray
    scores: ClassScores
    vocabulary: Vocabulary
    shown: Shown
    patch_size: tuple[int, int] = (1, 1)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def changed(self, **changes: Any) -> Decided:
        """A copy with other labels or scores."""
        return replace(self, **changes)

    @cached_property
    def full_scores(self) -> Tensor:
        """(classes, h, w) float32 at the label map's size, or at the largest size that takes at most 256 MiB."""
        return torch.from_numpy(self.scores.full(self.labels.shape))


@dataclass(frozen=True, kw_only=True)
class Step(Part):
    """A rule on the scores or the labels of a picture. Subclass it as a frozen dataclass whose fields are the options.

    Any method can be followed by any steps: ``Settings(steps=("mine(alpha=0.5)", "pamr", "vote"))``.

    Class attributes:
        on: the place, ``"patches"``, ``"pixels"`` or ``"labels"``.
        gives: kind of the returned scores; None: the kind of the received ones.
        needs_regions: whether it uses the regions of the settings' masks.
        needs_features: whether it looks at features or at the picture; False where the scores of patches are enough.
        name, summary, source: see `Part`.

    Example:
        >>> import sclip_plugin as sp
        >>> from dataclasses import dataclass
        >>> @sp.register_step("centred")
        ... @dataclass(frozen=True, kw_only=True)
        ... class Centred(sp.Step):
        ...     on = "patches"
        ...     weight: float = 1.0
        ...     def __call__(self, given):
        ...         return given.scores - self.weight * given.scores.mean(dim=(0, 1, 2))
        >>> seg = sp.Segmenter.from_pretrained("demo", steps=["centred(weight=0.5)"])
    """

    on: ClassVar[Place]
    gives: ClassVar[Kind | None] = None
    needs_regions: ClassVar[bool] = False
    needs_features: ClassVar[bool] = True

    def taps(self, depth: int) -> tuple[int, ...]:
        """Indices of the blocks that `look` reads, from 0; the last block is ``depth - 1``."""
        return ()

    def look(self, context: Context) -> Tensor:
        """What the step keeps of its tapped blocks for a batch of windows, (B, ...).

        It is called while the windows pass through the tower. ``context.taps`` has the blocks.
        """
        raise NotImplementedError

    def __call__(self, given: Any) -> Any:
        """New scores or labels.

        Args:
            given: `PatchScores`, `PixelScores` or `Decided`, by the place.

        Returns:
            On patches: new scores (n, h, w, K); of the last such step also a `TiledMap` of scores at the pixels of the
            resized picture. On pixels: a `TiledMap` of scores, at any size. On labels: a `Decided`.
        """
        raise NotImplementedError
