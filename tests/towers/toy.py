"""A vision transformer and its tower as a third party would write them; no CLS token, the embedding a mean of patches.

Nothing here is decorated: `models` registers the tower as a decorator does, and one test installs it by entry point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sclip_plugin.towers import BlockInput, PatchedTrunk, Tower
from sclip_plugin.towers.base import resize_positions


class ToyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.before_attention(tokens)
        weights = (self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5).softmax(dim=-1)  # one head
        tokens = tokens + self.output(weights @ self.value(x))
        return tokens + self.mlp(self.before_mlp(tokens))


class ToyViT(nn.Module):
    """Pixels to an embedding: (B, 3, H, W) to (B, width)."""

    def __init__(self, width: int = 16, depth: int = 6) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 8, 8)
        self.where = nn.Parameter(torch.randn(16, width))
        self.layers = nn.ModuleList(ToyBlock(width) for _ in range(depth))

    def tokens(self, pixels: Tensor) -> Tensor:
        tokens = self.cut(pixels).flatten(2).mT + self.where
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tokens(pixels).mean(dim=1)


class ToyBlockInput(BlockInput):
    num_heads = 1

    @property
    def scale(self) -> float:
        return self.tokens.shape[-1] ** -0.5

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.before_attention(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return {"q": self.block.query, "k": self.block.key, "v": self.block.value}[name](x)

    def _out(self, merged: Tensor) -> Tensor:
        return self.block.output(merged)

    def ffn(self, tokens: Tensor) -> Tensor:
        return self.block.mlp(self.block.before_mlp(tokens))


class PatchedToyViT(PatchedTrunk):
    def tokens(self, pixels: Tensor) -> Tensor:
        return self._sclip_patch.dense_tokens(self, pixels)[0]

    def forward(self, pixels: Tensor) -> Tensor:
        return self._sclip_patch.dense_tokens(self, pixels)[1].mean(dim=1)


class ToyTower(Tower):
    models = "toys: ToyViT"
    patched = PatchedToyViT
    prefix_tokens = 0
    pools_patches = True
    patch_size = (8, 8)
    native_grid = (4, 4)

    def __init__(self, trunk, projection=None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.layers

    @classmethod
    def find(cls, model: nn.Module) -> ToyTower | None:
        return cls(model) if hasattr(model, "cut") and hasattr(model, "where") else None

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        positions = resize_positions(self.trunk.where, self.native_grid, self.grid(pixel_values), position_resize)
        return self.trunk.cut(pixel_values).flatten(2).mT + positions

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return ToyBlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return block(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        return tokens
