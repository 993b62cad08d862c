"""SAM 3 as a guide: the features of its vision encoder, at the grid of its patches.

How good they are for this could not be seen here, where SAM 3's weights can't be had.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Guide, stretched
from .registry import register_guide
from .segment_anything import EmbeddingSeen


@register_guide("sam3")
class Sam3Guide(Guide):
    """Looks at a picture stretched to the one square that SAM 3 takes, values from -1 to 1."""

    models = "SAM 3: transformers' Sam3Model and Sam3VideoModel, for proxyclip"
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self.encoder = _detector(module).vision_encoder
        backbone = self.encoder.config.backbone_config
        self.side, self.patch_size = backbone.image_size, (backbone.patch_size, backbone.patch_size)
        self.level = list(self.encoder.config.scale_factors).index(1.0)

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        detector = _detector(module)
        return hasattr(detector, "get_vision_features") and hasattr(detector, "detr_decoder")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side // self.patch_size[0], self.side // self.patch_size[1]

    def look(self, pixels: Tensor) -> EmbeddingSeen:
        shown = stretched(self.normalised(pixels), (self.side, self.side))
        return EmbeddingSeen(self.encoder(shown).fpn_hidden_states[self.level])


def _detector(module: nn.Module) -> Any:
    return getattr(module, "detector_model", module)
