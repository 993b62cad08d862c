"""SAM 2 (arXiv 2408.00714) as a guide: the image encoder of transformers' Sam2Model and Sam2VideoModel.

What it shows are the features that masks are decoded from, behind the neck. Its Hiera has no last block with attention
over the whole picture, so Trident can't aggregate by it, and prompts go to SAM.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Guide, stretched
from .registry import register_guide
from .segment_anything import EmbeddingSeen


@register_guide("sam2")
class Sam2(Guide):
    """Looks at a picture stretched to its own square."""

    models = "SAM 2: transformers' Sam2Model and Sam2VideoModel, for proxyclip"

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self.encoder = self.module.vision_encoder if hasattr(self.module, "vision_encoder") else self.module
        backbone = self.encoder.config.backbone_config
        self.side = tuple(backbone.image_size)
        # Masks are decoded from the coarsest of the neck's levels that the model uses.
        steps = backbone.patch_stride[0] * backbone.query_stride[0] ** (self.encoder.config.num_feature_levels - 1)
        self.patch_size = (steps, steps)

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        encoder: Any = getattr(module, "vision_encoder", module)
        return hasattr(encoder, "num_feature_levels") and hasattr(encoder, "neck") and hasattr(encoder, "backbone")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side[0] // self.patch_size[0], self.side[1] // self.patch_size[1]

    def look(self, pixels: Tensor) -> EmbeddingSeen:
        shown = stretched(self.normalised(pixels), self.side)
        return EmbeddingSeen(self.encoder(shown).fpn_hidden_states[-1])
