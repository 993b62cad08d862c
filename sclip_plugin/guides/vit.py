"""Vision transformers as guides: DINO v1 and any plain ViT, DINOv2, DINOv3, MAE; of transformers and of timm.

A tower finds the model's parts (`sclip_plugin.towers`); what is here is how each family's authors resize positions:
DINO by factors, as CLIP's dense methods do; DINOv2 likewise, with registers to the size and antialiased; MAE to the
size, not antialiased; DINOv3 has rotary positions. The libraries' own ways differ for DINO v1: with random positions by
3e-2 to 1.3e-1 of the largest feature in transformers, by 8e-2 to 2e-1 in timm; with smooth ones by 6e-3 to 4e-2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..towers import BlockInput, Tower, find_tower
from ..towers.running import before_last_block
from .base import GuideView, OwnSizeGuide
from .registry import register_guide


class BlockSeen(GuideView):
    """The last block of a vision transformer with the tokens that enter it, some of them before the patches."""

    def __init__(self, block: BlockInput, grid: tuple[int, int], prefix_tokens: int) -> None:
        self.block, self.grid, self.prefix_tokens = block, grid, prefix_tokens

    def heads(self, name: str) -> Tensor:
        return self.block.heads(name)[:, :, self.prefix_tokens :]

    def attention(self, head: int, rows: slice | Tensor) -> Tensor:
        q, k = self.heads("q")[:, head, rows], self.block.k[:, head]
        scores = self.block.scale * (q.float() @ k.float().mT)
        return scores.softmax(dim=-1)[..., self.prefix_tokens :]


class ViTSeen(BlockSeen):
    """The same of a vision transformer that is a tower."""

    def __init__(self, tower: Tower, block: BlockInput, grid: tuple[int, int]) -> None:
        super().__init__(block, grid, tower.prefix_tokens)
        self.tower = tower

    @property
    def tokens(self) -> Tensor:
        tokens = self.tower.run_block(self.block.block, self.block.tokens)
        return self.tower.project(tokens)[:, self.prefix_tokens :]


class ViTGuide(OwnSizeGuide):
    """A vision transformer that is a tower."""

    normalised_as_published = True

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self.tower = find_tower(module)
        self.patch_size = self.tower.patch_size

    def look(self, pixels: Tensor) -> ViTSeen:
        block, context = before_last_block(self.tower, self.shown(pixels), position_resize=self.position_resize)
        return ViTSeen(context.tower, block, context.grid)


def tower_of(module: nn.Module) -> Tower | None:
    try:
        return find_tower(module)
    except UnsupportedModelError:
        return None


def said_to_be(module: nn.Module, what: str) -> bool:
    """Whether a model's config (transformers) or pretrained tag (timm) names a family."""
    config: Any = getattr(module, "config", None)
    cfg = getattr(module, "pretrained_cfg", None) or {}
    return what in str(getattr(config, "model_type", "")) or what in str(cfg.get("tag", ""))


@register_guide("mae")
class MAE(ViTGuide):
    """MAE's encoder, arXiv 2111.06377; nothing is masked."""

    models = "MAE: transformers' ViTMAEModel, timm:vit_*.mae"
    authors_norm_eps = 1e-6

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        return said_to_be(module, "mae") and tower_of(module) is not None

    @classmethod
    def authors_position_resize(cls, module: nn.Module) -> str:
        return "size"


@register_guide("dinov3")
class DINOv3(ViTGuide):
    """DINOv3, arXiv 2508.10104: rotary positions, which any grid has."""

    models = "DINOv3: transformers' DINOv3ViTModel, timm:vit_*_dinov3"

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        tower: Any = tower_of(module)
        return tower is not None and (hasattr(tower.trunk, "rope_embeddings") or said_to_be(module, "dinov3"))


@register_guide("dinov2")
class DINOv2(ViTGuide):
    """DINOv2, arXiv 2304.07193, with and without registers (arXiv 2309.16588)."""

    models = "DINOv2: transformers' Dinov2Model and Dinov2WithRegistersModel, timm:vit_*_dinov2"

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        return said_to_be(module, "dinov2") and tower_of(module) is not None

    @classmethod
    def authors_position_resize(cls, module: nn.Module) -> str:
        tower = find_tower(module)
        return "size_antialias" if tower.prefix_tokens > 1 else "scale_factor"


@register_guide("dino")
class DINO(ViTGuide):
    """DINO, arXiv 2104.14294, and any other vision transformer that a tower knows."""

    models = "DINO and any plain vision transformer: transformers' ViTModel, timm:vit_*"
    authors_norm_eps = 1e-6

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        return not said_to_be(module, "radio") and tower_of(module) is not None
