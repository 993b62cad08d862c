"""What a case of the table of models is: how a caller, who knows nothing of this project, reads a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

CASES: dict[str, Case] = {}
"""All of them by name; `models` fills it."""


@dataclass(frozen=True)
class Case:
    """One model of the table.

    Fields:
        name: shown as the test's parameter.
        make: builds it; its weights are then drawn at random, except for those of the golden checkpoint.
        embedding: (model, pixels) to the image embedding (B, D), by the model's own calls.
        patches: (model, pixels) to the patch tokens (B, N, C) that the model's own forward returns.
        to_joint: (model, those tokens) to the joint space (B, N, D), by the model's own modules.
        size: pixels (H, W) that the model was made for.
        patch: side of a patch in pixels.
        one_block: the tower is an attention pool alone; methods that look at earlier blocks are refused.
    """

    name: str
    make: Callable[[], nn.Module]
    embedding: Callable[[nn.Module, Tensor], Tensor]
    patches: Callable[[nn.Module, Tensor], Tensor]
    to_joint: Callable[[nn.Module, Tensor], Tensor]
    size: tuple[int, int] = (32, 32)
    patch: int = 8
    golden: bool = False
    one_block: bool = False

    def __str__(self) -> str:
        return self.name

    def model(self) -> nn.Module:
        """A fresh model, fp32, eval."""
        return copy.deepcopy(self.shared_model())

    def shared_model(self) -> nn.Module:
        """The same model each time, for tests that only read it."""
        return _built(self.name)

    def pixels(self, batch: int = 2, size: tuple[int, int] | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, *(size or self.size), generator=generator)

    @property
    def other_size(self) -> tuple[int, int]:
        """Not square, not the native one."""
        return (self.size[0] - self.patch, self.size[1] + 2 * self.patch)

    def outputs(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.embedding(model, pixels), self.patches(model, pixels)


@cache
def _built(name: str) -> nn.Module:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make()
    return (model if case.golden else randomise(model)).eval().requires_grad_(False)


def randomise(model: nn.Module) -> nn.Module:
    """Weights under which every part matters: initialisation leaves biases and layer scales at 0 or near it."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=generator)
            if p.dim() == 4 or "pos" in name:
                p.copy_(draw * (0.1 if p.dim() == 4 else 1.5))  # tokens that stay different through all blocks
            elif p.dim() >= 2:
                p.copy_(draw * p[0].numel() ** -0.5)
            elif name.endswith("weight"):  # of a norm
                p.copy_(1 + 0.1 * draw)
            else:
                p.copy_(0.3 * draw)
    return model
