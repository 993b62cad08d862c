"""SigLIP image towers of transformers: no CLS token; a learned probe pools all patches by attention.

A patch reaches the joint space by the value path of that attention, as MaskCLIP does in CLIP's last block: what the
probe would return if it attended to this patch alone. SigLIP 2 with a fixed resolution is a ``SiglipModel`` too.
"""

from __future__ import annotations

from torch import Tensor, nn

from .base import resize_positions
from .layers import dtype_of, projections_of, table_of
from .registry import register_tower
from .transformers import TransformersTower, find_transformers_trunk


@register_tower("siglip")
class SiglipTower(TransformersTower):
    """``embeddings`` without a class embedding, ``encoder.layers``, ``post_layernorm``, ``head``."""

    models = "transformers: SiglipModel, SiglipVisionModel (SigLIP, and SigLIP 2 with a fixed resolution)"
    prefix_tokens = 0
    pools_patches = True

    @classmethod
    def find(cls, model: nn.Module) -> SiglipTower | None:
        trunk = find_transformers_trunk(model)
        if trunk is None or not hasattr(trunk, "use_head") or hasattr(trunk.embeddings, "class_embedding"):
            return None
        return cls(trunk, getattr(model, "visual_projection", None))  # of a VisionTextDualEncoder

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        embeddings = self.trunk.embeddings
        patches = embeddings.patch_embedding(pixel_values.to(dtype_of(embeddings.patch_embedding)))
        positions = resize_positions(
            table_of(embeddings.position_embedding), self.native_grid, self.grid(pixel_values), position_resize
        )
        return patches.flatten(2).transpose(1, 2) + positions.to(patches.dtype)

    def project(self, tokens: Tensor) -> Tensor:
        """What the head's probe would return of each token alone."""
        tokens = self.trunk.post_layernorm(tokens)
        if self.trunk.use_head:
            head, tokens = self.trunk.head, self._values(tokens)
            tokens = tokens + head.mlp(head.layernorm(tokens))
        return tokens if self.projection is None else self.projection(tokens)

    def _values(self, tokens: Tensor) -> Tensor:
        projections = projections_of(self.trunk.head.attention, tokens)
        return projections.out(projections.part(tokens, "v"))

    def pool_input(self, tokens: Tensor) -> Tensor | None:
        return self.trunk.post_layernorm(tokens) if self.trunk.use_head else None

    def pool_output(self, tokens: Tensor) -> Tensor:
        tokens = self._values(tokens)
        return tokens if self.projection is None else self.projection(tokens)

    def embedding(self, tokens: Tensor) -> Tensor:
        pooled = self.pooled(tokens)
        if pooled is None:
            return super().embedding(tokens)
        return pooled if self.projection is None else self.projection(pooled)

    def returned(self, tokens: Tensor) -> Tensor:
        return self.trunk.post_layernorm(tokens)

    def pooled(self, tokens: Tensor) -> Tensor | None:
        return self.trunk.head(self.trunk.post_layernorm(tokens)) if self.trunk.use_head else None
