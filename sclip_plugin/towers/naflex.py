"""SigLIP 2 NaFlex of transformers: a SigLIP tower that takes cut patches of pictures of any size, with their shapes.

Pictures are cut here. Positions always reach a grid the model's own way, bilinearly with antialiasing: it was trained
so, on many grids, and a method's ``position_resize`` has no say. FG-CLIP 2's image tower has this layout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from .base import Tower
from .layers import base_of, dtype_of, table_of
from .registry import register_tower
from .siglip import SiglipTower
from .transformers import PatchedTransformersTrunk, mask_arguments


class PatchedNaFlexTrunk(PatchedTransformersTrunk):
    """The tower's forward of cut patches: pictures of one shape run together; rows that pad a picture are zero."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,  # says no more than the shapes
        spatial_shapes: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if pixel_values is None or spatial_shapes is None:
            raise SettingError("You have to specify pixel_values and spatial_shapes")
        side = self._sclip_patch.tower(self).patch_size[0]
        shapes: list[tuple[int, int]] = [tuple(shape) for shape in spatial_shapes.tolist()]
        rows: list[dict[str, Any]] = [{} for _ in shapes]
        for shape in dict.fromkeys(shapes):
            those = [row for row, other in enumerate(shapes) if other == shape]
            cut = pixel_values[those, : shape[0] * shape[1]].unflatten(2, (side, side, -1)).unflatten(1, shape)
            pictures = cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
            output = super().forward(pictures, **{**kwargs, "return_dict": True})
            for place, row in enumerate(those):
                rows[row] = {
                    "last_hidden_state": _padded(output.last_hidden_state[place], pixel_values),
                    "pooler_output": None if output.pooler_output is None else output.pooler_output[place],
                    "hidden_states": [_padded(state[place], pixel_values) for state in output.hidden_states or ()],
                }
        output["last_hidden_state"] = torch.stack([row["last_hidden_state"] for row in rows])
        if output.pooler_output is not None:
            output["pooler_output"] = torch.stack([row["pooler_output"] for row in rows])
        if output.hidden_states is not None:
            levels = zip(*(row["hidden_states"] for row in rows), strict=True)
            output["hidden_states"] = tuple(torch.stack(level) for level in levels)
        return output if kwargs.get("return_dict", True) else output.to_tuple()


def _padded(tokens: Tensor, patches: Tensor) -> Tensor:
    return F.pad(tokens, (0, 0, 0, patches.shape[1] - tokens.shape[0]))


@register_tower("naflex")
class NaFlexTower(SiglipTower):
    """SigLIP's layout with a linear map of cut patches."""

    models = "transformers: Siglip2Model, Siglip2VisionModel (NaFlex)"
    patched = PatchedNaFlexTrunk

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        Tower.__init__(self, trunk, projection)
        self.blocks = trunk.encoder.layers
        self.patch_size = (trunk.embeddings.patch_size, trunk.embeddings.patch_size)
        side = trunk.embeddings.position_embedding_size
        self.native_grid = (side, side)

    @classmethod
    def find(cls, model: nn.Module) -> NaFlexTower | None:
        trunk: Any = getattr(model, "vision_model", model)
        trunk = getattr(trunk, "vision_model", trunk)
        embeddings = getattr(trunk, "embeddings", None)
        patch_embedding = base_of(getattr(embeddings, "patch_embedding", None))
        if not hasattr(patch_embedding, "in_features") or not hasattr(trunk, "use_head"):
            return None
        mask_arguments(type(trunk.encoder.layers[0]))
        return cls(trunk, getattr(model, "visual_projection", None))

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        embeddings, grid, side = self.trunk.embeddings, self.grid(pixel_values), self.patch_size[0]
        rows = pixel_values.to(dtype_of(embeddings.patch_embedding)).unflatten(3, (grid[1], side))
        cut = rows.unflatten(2, (grid[0], side)).permute(0, 2, 4, 3, 5, 1)  # (B, h, w, side, side, 3)
        patches = embeddings.patch_embedding(cut.flatten(3).flatten(1, 2))
        square = table_of(embeddings.position_embedding).float().unflatten(0, self.native_grid).permute(2, 0, 1)[None]
        positions = F.interpolate(square, size=list(grid), mode="bilinear", align_corners=False, antialias=True)
        return patches + positions.flatten(2).transpose(1, 2).to(patches.dtype)
