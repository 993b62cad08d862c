"""CLIP-DINOiser's scores (arXiv 2312.12359): probabilities, and a background that a 1 x 1 convolution learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModelError
from ..fields import field_of
from ..guides.dinoiser import intermediate_tap, load_dinoiser
from .base import PatchScores, PostStep
from .registry import register_step


@register_step("dinoiser")
@dataclass(frozen=True, kw_only=True)
class DINOiser(PostStep):
    """softmax(scale · scores); class 0 gets 1.0 where sigmoid(decoder(⟨G⟩)) ≤ 0.5 and the best is below δ.

    G is ln2's output in the third last block: the windows go through the tower once more, whatever the method. Use it
    with ``softmax=False``, ``logit_scale=100`` and class 0 named "background". Without weights there is no background.

    Fields:
        weights: the authors' checkpoint, ``last.pt``; empty for probabilities alone.
        delta: δ.
    """

    summary: ClassVar[str] = "probabilities of names, and class 0 where a learned decoder sees background"
    source: ClassVar[str] = "CLIP-DINOiser, arXiv 2312.12359"
    weights: str = field_of("", "the authors' checkpoint, last.pt; empty: no background")
    delta: float = field_of(0.99, "patches with a better best name are no background", low=0, high=1)

    def __call__(self, given: PatchScores) -> Tensor:
        probabilities = (given.logit_scale * given.scores).softmax(dim=-1)
        if not self.weights:
            return probabilities
        nothing = self.decoded(given).sigmoid() <= 0.5
        background = nothing & (probabilities.amax(dim=-1) < self.delta)
        of_class_0 = torch.tensor([c == 0 for c in given.class_of_name], device=probabilities.device)
        return torch.where(background[..., None] & of_class_0, 1.0, probabilities)

    def decoded(self, given: PatchScores) -> Tensor:
        """The decoder's output B, (n, h, w): positive where it sees things."""
        weights, parts = load_dinoiser(self.weights), []
        kernel, bias = (weights[f"bkg_decoder.{part}"].flatten().to(given.scores.device) for part in ("weight", "bias"))
        tap = intermediate_tap(len(given.tower.blocks))
        for _, context in given.looks((tap,), "size"):
            block = context.taps[tap]
            G = block.norm2(block.after_attention())[:, context.prefix_tokens :].float()
            if G.shape[2] != len(kernel):
                raise UnsupportedModelError(
                    f"{self.weights} was trained on a tower of width {len(kernel)}, and this one has {G.shape[2]}; "
                    "CLIP-DINOiser's own weights fit ViT-B/16, laion2b_s34b_b88k."
                )
            parts.append((F.normalize(G, dim=-1) @ kernel + bias).unflatten(1, context.grid))
        return torch.cat(parts)
