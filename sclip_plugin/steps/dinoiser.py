"""CLIP-DINOiser's scores (arXiv 2312.12359): probabilities, and a background that a 1 x 1 convolution learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModelError
from ..fields import field_of
from ..guides.dinoiser import intermediate_tap, load_dinoiser
from .base import PatchScores, Place, Step
from .registry import register_step
from .scores import Kind

if TYPE_CHECKING:
    from ..towers.running import Context


@register_step("dinoiser")
@dataclass(frozen=True, kw_only=True)
class DINOiser(Step):
    """softmax(scale · scores); class 0 gets 1.0 where sigmoid(decoder(⟨G⟩)) ≤ 0.5 and the best is below δ.

    G is ln2's output in the third last block. Use it with ``logit_scale=100`` and class 0 named "background". Without
    weights there is no background.

    Fields:
        weights: the authors' checkpoint, ``last.pt``; empty for probabilities alone.
        delta: δ.
    """

    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "probability"
    summary: ClassVar[str] = "give probabilities, and class 0 where a learned decoder sees background"
    source: ClassVar[str] = "CLIP-DINOiser, arXiv 2312.12359"
    weights: str = field_of("", "the authors' checkpoint, last.pt; empty: no background", holds="model")
    delta: float = field_of(0.99, "patches with a better best name are no background", low=0, high=1)

    def __call__(self, given: PatchScores) -> Tensor:
        probabilities = (given.words.logit_scale * given.scores).softmax(dim=-1)
        if given.looked is None:
            return probabilities
        nothing = given.looked.sigmoid() <= 0.5
        background = nothing & (probabilities.amax(dim=-1) < self.delta)
        of_class_0 = torch.tensor([c == 0 for c in given.words.class_of_name], device=probabilities.device)
        return torch.where(background[..., None] & of_class_0, 1.0, probabilities)

    def taps(self, depth: int) -> tuple[int, ...]:
        return (intermediate_tap(depth),) if self.weights else ()

    def look(self, context: Context) -> Tensor:
        """Output of the decoder, (B, h, w): positive for objects."""
        block = context.taps[intermediate_tap(context.depth)]
        G = block.norm2(block.after_attention())[:, context.prefix_tokens :].float()
        weights = load_dinoiser(self.weights)
        kernel, bias = (weights[f"bkg_decoder.{part}"].flatten().to(G.device) for part in ("weight", "bias"))
        if G.shape[2] != len(kernel):
            raise UnsupportedModelError(
                f"{self.weights} was trained on a tower of width {len(kernel)}, and this one has {G.shape[2]}; "
                "CLIP-DINOiser's own weights fit ViT-B/16, laion2b_s34b_b88k."
            )
        return (F.normalize(G, dim=-1) @ kernel + bias).unflatten(1, context.grid)
