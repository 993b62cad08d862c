"""SAM in its authors' own layout, a module in hand: ``segment_anything``, MobileSAM (arXiv 2306.14289) and their kin.

What prompts are decoded from is all that they show: MobileSAM's small encoder has no last block with attention over the
whole picture, which Trident's features are aggregated by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .base import GuideView, stretched
from .prompts import PromptedGuide
from .registry import register_guide


class EmbeddingSeen(GuideView):
    """What leaves an image encoder, (B, C', a, b), and nothing of what is inside it."""

    def __init__(self, embedding: Tensor) -> None:
        self.embedding, self.device = embedding, embedding.device
        self.grid = (embedding.shape[2], embedding.shape[3])

    @property
    def tokens(self) -> Tensor:
        return self.embedding.flatten(2).mT

    def heads(self, name: str) -> Tensor:
        raise self._refused()

    def attention(self, head: int, rows: slice | Tensor) -> Tensor:
        raise self._refused()

    def _refused(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            "only the features behind this SAM's encoder are known here, not its last block; expected transformers' "
            "SamModel."
        )


@register_guide("segment_anything")
class SegmentAnything(PromptedGuide):
    """A module with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``."""

    models = "SAM's own code and MobileSAM: a module in hand, for proxyclip and refinement"

    def __init__(self, module: nn.Module, position_resize: str | None = None) -> None:
        super().__init__(module, position_resize)
        self.side = self.module.prompt_encoder.input_image_size[0]
        self.patch_size = tuple(self.side // length for length in self.module.prompt_encoder.image_embedding_size)

    @classmethod
    def knows(cls, module: nn.Module) -> bool:
        prompts: Any = getattr(module, "prompt_encoder", None)
        return hasattr(prompts, "get_dense_pe") and hasattr(module, "image_encoder") and hasattr(module, "mask_decoder")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side // self.patch_size[0], self.side // self.patch_size[1]

    def look(self, pixels: Tensor) -> EmbeddingSeen:
        """See windows, (B, 3, H, W) of values 0 to 1, each stretched to SAM's square."""
        return self.seen(stretched(self.normalised(pixels), (self.side, self.side)))

    def seen(self, pixels: Tensor) -> EmbeddingSeen:
        return EmbeddingSeen(self.module.image_encoder(pixels))

    def decode(
        self, embedding: Tensor, points: Tensor, boxes: Tensor, mask: Tensor, channel_axis: bool = True
    ) -> tuple[Tensor, Tensor]:
        encoder = self.module.prompt_encoder
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = encoder(points=(points[:, None], labels), boxes=boxes, masks=None)
        dense = encoder.mask_downscaling(mask[None, None] if channel_axis else mask[None])
        masks, scores = self.module.mask_decoder(
            image_embeddings=embedding,
            image_pe=encoder.get_dense_pe().to(embedding.dtype),
            sparse_prompt_embeddings=sparse.to(embedding.dtype),
            dense_prompt_embeddings=dense.view(1, *dense.shape[-3:]),
            multimask_output=False,
        )
        return masks[:, 0], scores[:, 0]
