"""Heat maps and scores of anomalies, with the second path and the rule of AnomalyCLIP (arXiv 2310.18961)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..device import without_autocast
from ..draw.overlay import heatmap
from ..errors import SettingError
from ..imaging.pictures import Picture, read_picture, to_tensor
from ..imaging.resampling import normalise
from ..methods.second_path import second_path, taps_of_last
from ..methods.surgery import CLIPSurgery
from ..segment.chain import Chain, OfModel
from ..text.labels import imagenet_templates
from ..towers.running import before_last_block
from .text import learned_pair, load_prompts, state_pair

PUBLISHED_DEPTH, PUBLISHED_PATH = 24, 19
LEARNED_LAYERS = (6, 12, 18, 24)
TEMPERATURE, SIGMA = 0.07, 4.0
PUBLISHED_SIDE, PUBLISHED_NATIVE = 518, 336


@dataclass
class Anomaly:
    """What was found in a picture.

    Attributes:
        score: from 0, normal, to 1, abnormal: of the picture as a whole.
        heat: (H, W) float32, of each pixel, from 0 to 1 for each layer that was looked at: 0 to 1 with words, 0 to 4
            with learned prompts.
        layers: how many those were.
        picture: RGB.
    """

    score: float
    heat: np.ndarray
    layers: int
    picture: Image.Image = field(repr=False)

    def heatmap(self) -> Image.Image:
        """The heat over the grey picture, from 0 to 1 in every picture; in colours where abnormal fits better."""
        share = np.clip(self.heat / self.layers, 0, 1)
        return heatmap(self.picture, share, "how abnormal", what="grey up to 0.5: normal fits better", grey_to=0.5)


class AnomalyDetector(OfModel):
    """Finds what is not as it should be, without a picture of either kind.

    Args:
        model: a whole CLIP with a CLS token.
        tokenizer: its own.
        thing: what the pictures show, such as ``"metal nut"``; words for its normal and abnormal states are made of it.
        prompts: AnomalyCLIP's learned prompts in the place of words, a file; ``thing`` is not used then. The authors'
            fit OpenAI's ViT-L/14@336px.
        layers: numbers of the blocks whose tokens are compared, counted from 1 of 24, at the same fractions of another
            depth; (6, 12, 18, 24) with prompts, whose text was learned for them, else the last alone.
        size: side in pixels to which pictures are squashed; 518 for a native side of 336, else in proportion.
        image_mean, image_std: of the model's pictures; CLIP's where None.
        cache_dir: of the text bank, as of `Segmenter`.

    Raises:
        UnsupportedModelError: a tower or a text tower that is not CLIP's.
        SettingError: neither a thing nor prompts.

    Source: AnomalyCLIP, arXiv 2310.18961; the states in words are WinCLIP's, arXiv 2303.14814. That the number of
    blocks of the second path, 19 of 24, becomes the same fraction of another depth is ours.

    Example:
        >>> import sclip_plugin as sp
        >>> from sclip_plugin.anomaly import AnomalyDetector
        >>> found = AnomalyDetector.from_pretrained("demo", thing="cat")(sp.draw_scene(seed=7).picture)
        >>> 0 <= found.score <= 1 and found.heat.shape == found.picture.size[::-1]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        thing: str = "",
        prompts: str | Path | None = None,
        layers: tuple[int, ...] | None = None,
        size: int | None = None,
        image_mean: Any = None,
        image_std: Any = None,
        cache_dir: str | Path | None | bool = None,
    ) -> None:
        if prompts is None and not thing.strip():
            raise SettingError('nothing to look for; expected thing="metal nut", or prompts=FILE of AnomalyCLIP.')
        self.chain = Chain.of(model, tokenizer, image_mean=image_mean, image_std=image_std, cache_dir=cache_dir)
        depth = len(self.tower.blocks)
        wanted = layers or (LEARNED_LAYERS if prompts else (PUBLISHED_DEPTH,))
        if min(wanted) < 1 or max(wanted) > PUBLISHED_DEPTH:
            raise SettingError(f"layers={wanted!r}; expected numbers from 1 to {PUBLISHED_DEPTH}.")
        self.layers = tuple(dict.fromkeys(max(1, round(b * depth / PUBLISHED_DEPTH)) for b in wanted))
        self.path = max(1, PUBLISHED_PATH * depth // PUBLISHED_DEPTH)
        self.size = size or self._proportional()
        if prompts is None:
            pair = state_pair(self.text_bank, thing, imagenet_templates())
        else:
            pair = learned_pair(self.text_bank.tower, load_prompts(prompts))
        self.pair = F.normalize(pair.float(), dim=1)
        """(2, D), unit: normal, abnormal."""

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str | torch.device | None = None, dtype: Any = None, **arguments: Any
    ) -> AnomalyDetector:
        """A detector for a model by name; arguments as of `Segmenter.from_pretrained` and of this class."""
        from ..loading import load_model

        loaded = load_model(name, device=device, dtype=dtype)
        return cls(loaded.model, loaded.tokenizer, **{**loaded.statistics(), **arguments})

    def __call__(self, picture: Picture) -> Anomaly:
        """What is abnormal in a picture.

        Raises:
            PictureError, FileNotFoundError: a picture that can't be read.
        """
        rgb = read_picture(picture)
        maps, scores = self.maps(self.pixels(rgb))
        heat = F.interpolate(maps[:, None], size=rgb.size[::-1], mode="bilinear", align_corners=False)[0, 0]
        return Anomaly(float(scores[0]), heat.cpu().numpy(), len(self.layers), rgb)

    def pixels(self, picture: Image.Image) -> Tensor:
        """A picture squashed to (1, 3, ``size``, ``size``), bicubic, and normalised."""
        squashed = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return normalise(to_tensor(squashed).to(self.device), self.encoder.mean, self.encoder.std)[None]

    @torch.inference_mode()
    def maps(self, pixels: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Maps (B, S, S), smoothed, the sum over layers, and scores (B,) of normalised pixels (B, 3, S, S).

        With ``size`` another S for the maps.
        """
        tokens, image = self.features(pixels)
        side, prefix = size or pixels.shape[-1], self.tower.prefix_tokens
        grid = self.tower.grid(pixels)
        with without_autocast(pixels.device):
            total = torch.zeros(len(pixels), side, side, device=pixels.device)
            for layer in tokens:
                normal, abnormal = self._shares(layer[:, prefix:]).mT.unflatten(2, grid).unbind(dim=1)
                both = torch.stack([normal, abnormal], dim=1)
                both = F.interpolate(both, size=(side, side), mode="bilinear", align_corners=False)
                total += (both[:, 1] + 1 - both[:, 0]) / 2
            return smoothed(total, SIGMA), self._shares(image)[:, 1]

    def features(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Of each layer the projected tokens (B, 1 + N, D) of the second path, or of the untouched one before it
        begins; and the image feature (B, D), which as published is projected without post-norm."""
        tower, depth = self.tower, len(self.tower.blocks)
        path = taps_of_last(self.path, depth)
        first = depth - len(path) - 1
        taps = tuple(sorted({*path, *(b for b in self.layers if b <= first)}))
        block, context = before_last_block(tower, pixels, taps, "bilinear")
        attend = CLIPSurgery().attend
        z = second_path([context.taps[i] for i in path] + [block], attend)
        tokens = [context.taps[b].tokens if b <= first else z[b - 1 - first] for b in self.layers]
        image = context.tower.project_unnormed(block.ordinary_rows(tower.prefix_tokens or 1)[:, 0])
        return [context.project(t) for t in tokens], image

    def _shares(self, features: Tensor) -> Tensor:
        """Softmax over normal and abnormal of the cosines / 0.07: (…, D) to (…, 2)."""
        cosines = F.normalize(features.float(), dim=-1) @ self.pair.to(features.device).T
        return (cosines / TEMPERATURE).softmax(dim=-1)

    def _proportional(self) -> int:
        native, patch = self.tower.native_grid[0] * self.tower.patch_size[0], self.tower.patch_size[0]
        return max(1, round(native * PUBLISHED_SIDE / PUBLISHED_NATIVE / patch)) * patch


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) under a Gaussian cut at 4 σ, borders mirrored with the border's own row: as scipy's filter."""
    reach = int(4 * sigma + 0.5)
    offset = torch.arange(-reach, reach + 1, device=maps.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    for axis in (1, 2):
        count = maps.shape[axis]
        place = torch.arange(-reach, count + reach, device=maps.device) % (2 * count)
        mirrored = maps.index_select(axis, torch.minimum(place, 2 * count - 1 - place))
        maps = (mirrored.unfold(axis, len(kernel), 1) * kernel).sum(dim=-1)
    return maps
