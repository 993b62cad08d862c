"""ResNet image towers of CLIP: one block, the attention pool, over the map of the last stage.

Its tokens are the mean of the map and the map's places, each with a position; they are queries, keys and values of one
attention, and its output projection leads into the joint space. There is no residual stream and no FFN, and what stands
before is convolutional: a method that looks at earlier blocks has none to look at. Layouts: OpenAI's ``clip`` and
open_clip (``attnpool``), timm's ``resnet*_clip`` (a pool as ``head``).

The tokens that enter the pool are kept as [content, position] side by side, 2 C wide, since MaskCLIP's values leave the
positions out (arXiv 2112.01071).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, cat, nn

from ..errors import UnsupportedModelError
from .base import BlockInput, PatchedTrunk, Tower, pair, resize_positions
from .layers import base_of, dtype_of, is_hooked, weight_of
from .registry import register_tower

STRIDE = 32
"""Pixels between two places of the last stage's map."""


class PoolBlockInput(BlockInput):
    """An attention pool with what enters it, (B, 1 + N, 2 C); its ``tokens``, the residual stream, are zero."""

    def __init__(self, block: nn.Module, entering: Tensor) -> None:
        self.content, positions = entering.chunk(2, dim=-1)
        self.entering = self.content + positions
        super().__init__(block, self.content.new_zeros(*entering.shape[:2], joint_width(block)))

    @property
    def num_heads(self) -> int:
        return self.block.num_heads

    @property
    def scale(self) -> float:
        return (attention_width(self.block) // self.num_heads) ** -0.5

    @property
    def own_values(self) -> Tensor:
        return self._split(self._linear("v", self.content))

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.entering

    def _linear(self, name: str, x: Tensor) -> Tensor:
        pool = self.block
        if hasattr(pool, "c_proj"):
            return self._read(getattr(pool, name + "_proj"), x)
        return self._fused(pool.qkv, name, x) if pool.qkv is not None else getattr(pool, name)(x)

    @staticmethod
    def _read(layer: Any, x: Tensor) -> Tensor:
        """OpenAI's and open_clip's pools read their layers' weights and never call them: adapters take no part."""
        return F.linear(x, weight_of(layer), layer.bias)

    def _out(self, merged: Tensor) -> Tensor:
        return self._read(self.block.c_proj, merged) if hasattr(self.block, "c_proj") else self.block.proj(merged)

    def ffn(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(tokens.shape)


def attention_width(pool: Any) -> int:
    return pool.embed_dim if hasattr(pool, "embed_dim") else base_of(pool.c_proj).in_features


def joint_width(pool: Any) -> int:
    return pool.out_features if hasattr(pool, "out_features") else base_of(pool.c_proj).out_features


class PatchedResNet(PatchedTrunk):
    """The embedding; the dense tokens beside it with ``output_tokens``, or alone as the map of timm's unpooled head."""

    def forward(self, x: Tensor) -> Any:
        tokens, for_embedding = self._sclip_patch.dense_tokens(self, x)
        tower: Any = self._sclip_patch.tower(self)
        if getattr(tower.pool, "pool_type", "token") == "":
            return tokens[:, 1:].transpose(1, 2).unflatten(2, tower.grid(x))
        embedding = for_embedding[:, 0]
        return (embedding, tokens[:, 1:]) if getattr(self, "output_tokens", False) else embedding


@register_tower("resnet")
class ResNetTower(Tower):
    """A convolutional trunk under an attention pool with learned positions."""

    models = "ResNet CLIPs: open_clip's and OpenAI's RN50 … RN50x64, timm's resnet*_clip"
    patched = PatchedResNet
    patch_size = (STRIDE, STRIDE)
    calls_blocks = False

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        super().__init__(trunk, projection)
        self.pool: Any = attention_pool(trunk)
        self.blocks = [self.pool]
        of_timm = self.pool is not getattr(trunk, "attnpool", None)
        self.positions: Tensor = self.pool.pos_embed if of_timm else self.pool.positional_embedding
        side = pair(getattr(trunk, "image_size", None) or getattr(trunk, "input_resolution", 0))[0] // STRIDE
        self.native_grid = tuple(self.pool.feat_size) if of_timm else (side, side)

    @classmethod
    def find(cls, model: nn.Module) -> ResNetTower | None:
        visual: Any = getattr(model, "visual", model)
        trunk = getattr(visual, "trunk", visual)
        if attention_pool(trunk) is None:
            return None
        return cls(trunk, visual.head if trunk is not visual else None)

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """(B, C, h, w), what enters the pool."""
        trunk = self.trunk
        if not hasattr(trunk, "attnpool"):
            return trunk.forward_features(pixel_values.to(self.positions.dtype))
        x = pixel_values.to(dtype_of(trunk.conv1))
        for conv, norm in ((trunk.conv1, trunk.bn1), (trunk.conv2, trunk.bn2), (trunk.conv3, trunk.bn3)):
            x = F.relu(norm(conv(x)))
        return trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(trunk.avgpool(x)))))

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        places = self.feature_map(pixel_values).flatten(2).transpose(1, 2)
        content = cat([places.mean(dim=1, keepdim=True), places], dim=1)
        grid = self.grid(pixel_values)
        positions = resize_positions(self.positions, self.native_grid, grid, position_resize).to(content.dtype)
        return cat([content, positions.expand_as(content)], dim=-1)

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        if is_hooked(block):  # a pool gives no places, so what a hook would do to them is not known
            raise UnsupportedModelError(
                f"a forward hook stands on the {type(block).__name__} that pools the picture, and a method takes the "
                "pool's place. Remove the hook, or put it on one of the pool's projections."
            )
        return PoolBlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return self.block_input(block, tokens).ordinary_rows(tokens.shape[1])

    def project(self, tokens: Tensor) -> Tensor:
        return tokens if self.projection is None else self.projection(tokens)


def attention_pool(trunk: Any) -> Any:
    """The pool of one query, the mean of the map, with learned positions; None where a trunk ends in none."""
    own, of_timm = getattr(trunk, "attnpool", None), getattr(trunk, "head", None)
    if own is not None and hasattr(trunk, "layer4") and hasattr(own, "c_proj") and hasattr(own, "positional_embedding"):
        return own
    if isinstance(getattr(of_timm, "pos_embed", None), Tensor) and hasattr(trunk, "stages"):
        return of_timm if hasattr(of_timm, "feat_size") and getattr(of_timm, "cls_token", None) is None else None
    return None
