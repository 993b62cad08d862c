"""timm's ``NaFlexVit``: SigLIP 2 NaFlex and its kind. It takes pictures of any size, or cut patches with coordinates.

Its embedding resizes positions as it was trained to, on many grids, and a method's ``position_resize`` has no say.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import SettingError
from .base import Tower
from .layers import dtype_of
from .registry import register_tower
from .timm import PatchedTimmTrunk, TimmTower, is_plain_block


class PatchedNaFlexVit(PatchedTimmTrunk):
    """timm's forward of pictures; cut patches are refused."""

    def _dense_tokens(self, x: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(x, Tensor) or x.dim() != 4:
            raise SettingError(
                "a patched NaFlexVit takes pictures, (batch, 3, height, width), of any size that the patch divides; "
                "call sclip_plugin.restore(model) to give it cut patches."
            )
        return super()._dense_tokens(x, *arguments)


@register_tower("naflexvit")
class NaFlexVitTower(TimmTower):
    """``embeds``, ``norm_pre``, timm's blocks, ``norm``, and a pool."""

    models = "timm: NaFlexVit without rotary positions (naflexvit_*_siglip)"
    patched = PatchedNaFlexVit

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        Tower.__init__(self, trunk, projection)
        self.blocks = trunk.blocks
        self.patch_size = tuple(trunk.embeds.patch_size)
        self.native_grid = tuple(trunk.embeds.pos_embed_grid_size or (16, 16))
        self.prefix_tokens = trunk.num_prefix_tokens
        self.pools_patches = trunk.attn_pool is not None or trunk.global_pool not in ("token", "")

    @classmethod
    def find(cls, model: nn.Module) -> NaFlexVitTower | None:
        visual: Any = getattr(model, "visual", model)
        trunk = getattr(visual, "trunk", visual)
        if not all(hasattr(trunk, name) for name in ("embeds", "blocks", "fc_norm", "attn_pool", "norm_pre")):
            return None
        if trunk.rope is not None or not is_plain_block(trunk.blocks[0]):
            return None
        return cls(trunk, visual.head if trunk is not visual else None)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        self.grid(pixel_values)
        tokens, _ = self.trunk.embeds(pixel_values.to(dtype_of(self.trunk.embeds.proj)))
        return self.trunk.norm_pre(tokens)
