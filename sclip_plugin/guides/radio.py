"""C-RADIO (arXiv 2412.07679) as a guide: transformers' RadioModel, which has the authors' normalisation and positions.

Positions are resized to a square of the longer side and cropped; timm's port resizes them to the grid: it is refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..towers.vit import ViTBlockInput
from .base import OwnSizeGuide
from .registry import register_guide
from .vit import BlockSeen


class RadioSeen(BlockSeen):
    """RADIO's last block; nothing comes after it."""

    @property
    def tokens(self) -> Tensor:
        return self.block.block(self.block.tokens)[:, self.prefix_tokens :]


@register_guide("radio")
class Radio(OwnSizeGuide):
    """RADIO, which normalises by itself."""

    models = "C-RADIO: transformers' RadioModel"
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        if isinstance(self.module.input_conditioner, nn.Identity):
            raise UnsupportedModelError("a RadioModel without its input_conditioner does not say how to normalise.")
        side = self.module.patch_size
        self.patch_size = (side, side)

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        return hasattr(module, "input_conditioner") and hasattr(
            getattr(module, "embeddings", None), "cls_register_token"
        )

    def look(self, pixels: Tensor) -> RadioSeen:
        model: Any = self.module
        grid = self.grid((pixels.shape[-2], pixels.shape[-1]))
        shown = self.shown(pixels)[..., : grid[0] * self.patch_size[0], : grid[1] * self.patch_size[1]]
        tokens = model.embeddings(model.input_conditioner(shown))
        for layer in model.encoder.layer[:-1]:
            tokens = layer(tokens)
        prefix = tokens.shape[1] - grid[0] * grid[1]
        return RadioSeen(ViTBlockInput(model.encoder.layer[-1], tokens), grid, prefix)
