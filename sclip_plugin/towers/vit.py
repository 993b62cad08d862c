"""Plain vision transformers of transformers: ViT, DINO, MAE, DINOv2, DINOv3, I-JEPA; TIPSv2's image tower.

Alone they have no text beside them, and the joint space is that of their own features, the tokens after the final norm;
so it is in TIPSv2, whose text tower leads there. Under a ``VisionTextDualEncoderModel`` a patch takes the way that CLS
takes: through the pooler, where there is one, and the projection. TIPSv2 takes its positions to another grid bilinearly
with antialiasing, as it was trained on many grids; a method's ``position_resize`` has no say.
Recognised by structure. Names differ between releases: transformers 5 has ``layers`` and ``q_proj … o_proj`` where
transformers 4 has ``encoder.layer`` and ``attention.query … output.dense``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, cat, nn

from ..defaults import PLAIN_MEAN, PLAIN_STD
from .base import BlockInput, Tower, resize_positions
from .layers import base_of, dtype_of, kernel_of, weight_of
from .registry import register_tower
from .transformers import PatchedTransformersTrunk, mask_arguments


class ViTBlockInput(BlockInput):
    """A ``ViTLayer``, ``Dinov2Layer`` or ``DINOv3ViTLayer``; ``rotations`` (cos and sin, each (N, d)) turn q and k."""

    def __init__(self, block: nn.Module, tokens: Tensor, rotations: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__(block, tokens)
        self.rotations = rotations
        # transformers 4 nests the attention proper in a module that also holds the output projection.
        self.attention: Any = getattr(block.attention, "attention", block.attention)
        self.layer_scale = hasattr(block, "layer_scale1")

    def at(self, tokens: Tensor) -> ViTBlockInput:
        return type(self)(self.block, tokens, self.rotations)

    @property
    def num_heads(self) -> int:
        attention = self.attention
        return attention.num_heads if hasattr(attention, "num_heads") else attention.num_attention_heads

    @property
    def scale(self) -> float:
        return (self.tokens.shape[-1] // self.num_heads) ** -0.5

    def _norm1(self, tokens: Tensor) -> Tensor:
        return (self.block.norm1 if self.layer_scale else self.block.layernorm_before)(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        nested = {"q": "query", "k": "key", "v": "value"}[name]
        return getattr(self.attention, f"{name}_proj" if hasattr(self.attention, "q_proj") else nested)(x)

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        if self.rotations is None or name not in ("q", "k"):
            return heads
        cos, sin = self.rotations
        prefix, patches = heads.split((heads.shape[2] - cos.shape[0], cos.shape[0]), dim=2)
        first, second = patches.chunk(2, dim=-1)
        turned = patches * cos + cat([-second, first], dim=-1) * sin
        return cat([prefix, turned.to(heads.dtype)], dim=2)

    def _out(self, merged: Tensor) -> Tensor:
        attention = self.block.attention
        out = attention.o_proj(merged) if hasattr(attention, "o_proj") else attention.output.dense(merged)
        return self.block.layer_scale1(out) if self.layer_scale else out

    def norm2(self, tokens: Tensor) -> Tensor:
        return (self.block.norm2 if self.layer_scale else self.block.layernorm_after)(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        block, normed = self.block, self.norm2(tokens)
        if self.layer_scale:
            return block.layer_scale2(block.mlp(normed))
        return block.mlp(normed) if hasattr(block, "mlp") else block.output.dense(block.intermediate(normed))


def find_vit_trunk(model: nn.Module) -> Any:
    """The plain vision transformer in a model of transformers, alone, under a head or beside a text tower, or None."""
    under_head: Any = getattr(model, getattr(model, "base_model_prefix", "") or "none", None)
    trunk: Any
    for trunk in (model, under_head, getattr(model, "vision_model", None)):
        patches = getattr(getattr(trunk, "embeddings", None), "patch_embeddings", None)
        conv = patch_convolution(patches)
        if conv is None or base_of(conv).in_channels != 3 or tuple(base_of(conv).stride) != kernel_of(conv):
            continue
        own = ("detection_tokens", "text_embeddings")
        if hasattr(patches, "backbone") or any(hasattr(trunk.embeddings, name) for name in own):
            continue  # a convolutional stem; YOLOS' tokens after the patches; ViLT's text beside them
        blocks = blocks_of(trunk)
        block = blocks[0] if blocks else None
        if not (hasattr(block, "layer_scale1") or hasattr(block, "layernorm_before")) or hasattr(block, "lambda_1"):
            continue  # lambda_1: BEiT, whose attention has relative positions
        if hasattr(block, "attention") and hasattr(final_norm(trunk), "weight"):
            mask_arguments(type(block))
            return trunk
    return None


def patch_convolution(patches: Any) -> Any:
    """The convolution of DINOv3's embeddings is ``patch_embeddings`` itself, that of the others lies in it."""
    conv = getattr(patches, "projection", patches)
    return conv if isinstance(base_of(conv), nn.Conv2d) else None


def blocks_of(trunk: Any) -> Any:
    """``layers``, ``encoder.layer``, or DINOv3's ``model.layer`` and, in its first releases, ``layer``."""
    holders = (trunk, getattr(trunk, "encoder", None), getattr(trunk, "model", None))
    found = (getattr(holder, name, None) for holder in holders for name in ("layers", "layer"))
    lists = [blocks for blocks in found if isinstance(blocks, nn.ModuleList)]
    return lists[0] if lists else None


def final_norm(trunk: Any) -> Any:
    return getattr(trunk, "layernorm", None) or getattr(trunk, "norm", None)


@register_tower("vit")
class ViTTower(Tower):
    """``embeddings``, the layers, ``layernorm``. Registers, if any, stand between CLS and patches, without position."""

    models = (
        "transformers: Tipsv2Model; VisionTextDualEncoderModel over these, which alone have no text: ViTModel, "
        "ViTMAEModel, Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel"
    )
    patched = PatchedTransformersTrunk

    def __init__(
        self, trunk: Any, projection: nn.Module | None = None, rotations: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__(trunk, projection)
        self.rotations = rotations
        self.blocks = blocks_of(trunk)
        embeddings = trunk.embeddings
        self.conv = patch_convolution(embeddings.patch_embeddings)
        self.patch_size = kernel_of(self.conv)
        size = getattr(embeddings.patch_embeddings, "image_size", None) or trunk.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        self.native_grid = (height // self.patch_size[0], width // self.patch_size[1])
        # Of the structure of DINOv2 with registers, whose rule is another: the config tells them apart.
        self.of_tips = trunk.config.model_type.startswith("tipsv2")
        if self.of_tips:
            self.mean, self.std = PLAIN_MEAN, PLAIN_STD
        self.prefix_tokens = sum(token.shape[1] for token in (*self._class_tokens(), *self._registers()))

    @classmethod
    def find(cls, model: nn.Module) -> ViTTower | None:
        trunk = find_vit_trunk(model)
        projection = getattr(model, "visual_projection", None) if trunk is not model else None
        return None if trunk is None else cls(trunk, projection)

    def _class_tokens(self) -> list[Tensor]:
        names = ("cls_token", "distillation_token")  # the second is DeiT's
        tokens = (getattr(self.trunk.embeddings, name, None) for name in names)
        return [token for token in tokens if token is not None]

    def _registers(self) -> list[Tensor]:
        registers = getattr(self.trunk.embeddings, "register_tokens", None)
        return [] if registers is None else [registers]

    def at_grid(self, grid: tuple[int, int]) -> ViTTower:
        rope = getattr(self.trunk, "rope_embeddings", None)
        if rope is None:
            return self
        size = [side * patch for side, patch in zip(grid, self.patch_size, strict=True)]
        rotations = rope(torch.empty(1, 1, *size, dtype=dtype_of(self.conv), device=weight_of(self.conv).device))
        return ViTTower(self.trunk, self.projection, rotations)

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        patches = self.conv(pixel_values.to(dtype_of(self.conv))).flatten(2).transpose(1, 2)
        count, dtype = patches.shape[0], patches.dtype
        tokens = cat([*(token.to(dtype).expand(count, -1, -1) for token in self._class_tokens()), patches], dim=1)
        positions = getattr(self.trunk.embeddings, "position_embeddings", None)
        if positions is not None:
            grid, how = self.grid(pixel_values), "bilinear_antialias" if self.of_tips else position_resize
            tokens = tokens + resize_positions(positions[0], self.native_grid, grid, how).to(dtype)
        registers = [token.to(dtype).expand(count, -1, -1) for token in self._registers()]
        before = tokens.shape[1] - patches.shape[1]
        return cat([tokens[:, :before], *registers, tokens[:, before:]], dim=1) if registers else tokens

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return ViTBlockInput(block, tokens, self.rotations)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        arguments = dict.fromkeys(mask_arguments(type(block)))
        if self.rotations is not None:
            arguments["position_embeddings"] = self.rotations
        output = block(tokens, **arguments)
        return output[0] if isinstance(output, tuple) else output

    def project(self, tokens: Tensor) -> Tensor:
        tokens = self.returned(tokens)
        if self.projection is None:
            return tokens
        pooler = getattr(self.trunk, "pooler", None)
        return self.projection(tokens if pooler is None else pooler.activation(pooler.dense(tokens)))

    def returned(self, tokens: Tensor) -> Tensor:
        """Tokens as the trunk's forward returns them: after the final norm."""
        return final_norm(self.trunk)(tokens)

    def pooled(self, tokens: Tensor) -> Tensor | None:
        """The ``pooler_output``: of ViT's pooler, where it has one; DINO's later versions give CLS after the norm."""
        tokens = self.returned(tokens)
        if not hasattr(self.trunk, "pooler"):
            return tokens[:, 0]
        return None if self.trunk.pooler is None else self.trunk.pooler(tokens)
