"""CLIP image towers of transformers and towers built alike: CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection;
ChineseCLIP, AltCLIP, MetaCLIP 2, CLIPSeg.

Recognised by structure: transformers 4 keeps the tower in ``model.vision_model``, a ``CLIPVisionTransformer``;
in transformers 5 a ``CLIPVisionModel`` is the tower itself.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import SettingError
from .base import BlockInput, PatchedTrunk, Tower, pair, resize_positions
from .layers import base_of, dtype_of, kernel_of, table_of
from .registry import register_tower

_mask_arguments: dict[type, tuple[str, ...]] = {}


def mask_arguments(block_type: type) -> tuple[str, ...]:
    """Names of the mask parameters that a block's forward demands; they differ between releases and model families."""
    if block_type not in _mask_arguments:
        parameters = inspect.signature(block_type.forward).parameters.values()  # type: ignore[attr-defined]
        _mask_arguments[block_type] = tuple(
            p.name for p in parameters if p.name.endswith("attention_mask") and p.default is inspect.Parameter.empty
        )
    return _mask_arguments[block_type]


class TransformersBlockInput(BlockInput):
    """A ``CLIPEncoderLayer``: separate q, k, v projections, pre-norm."""

    @property
    def num_heads(self) -> int:
        return self.block.self_attn.num_heads

    @property
    def scale(self) -> float:
        return self.block.self_attn.head_dim**-0.5

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.layer_norm1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return getattr(self.block.self_attn, name + "_proj")(x)

    def _out(self, merged: Tensor) -> Tensor:
        return self.block.self_attn.out_proj(merged)

    def norm2(self, tokens: Tensor) -> Tensor:
        return self.block.layer_norm2(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        return self.block.mlp(self.norm2(tokens))


class PatchedTransformersTrunk(PatchedTrunk):
    """The tower's forward, with its tokens from `dense_tokens`; hidden states end with the dense tokens."""

    if TYPE_CHECKING:
        config: Any

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *,
        interpolate_pos_encoding: bool = False,  # accepted for callers' sake: every size that the patch divides works
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if pixel_values is None:
            raise SettingError("You have to specify pixel_values")
        if output_attentions:
            raise SettingError(
                "output_attentions=True: fused attention forms no maps on a patched model. "
                "Call sclip_plugin.restore(model) to read the ordinary attention."
            )
        if output_hidden_states is None:
            output_hidden_states = getattr(self.config, "output_hidden_states", False)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        hidden_states: list[Tensor] | None = None if output_hidden_states in (False, None) else []
        tokens, for_embedding = self._sclip_patch.dense_tokens(self, pixel_values, hidden_states)
        tower: Any = self._sclip_patch.tower(self)
        output = {
            "last_hidden_state": tower.returned(tokens),
            "pooler_output": tower.pooled(for_embedding),
            "hidden_states": None if hidden_states is None else tuple(hidden_states),
        }
        if return_dict:
            return BaseModelOutputWithPooling(**output)
        return tuple(part for part in output.values() if part is not None)


def find_transformers_trunk(model: nn.Module) -> Any:
    """What has ``embeddings``, ``encoder`` and ``post_layernorm`` in a model of transformers; None if nothing has."""
    trunk: Any = getattr(model, "vision_model", model)
    trunk = getattr(trunk, "vision_model", trunk)
    if not (hasattr(trunk, "encoder") and hasattr(trunk, "post_layernorm")):
        return None
    if not isinstance(base_of(getattr(getattr(trunk, "embeddings", None), "patch_embedding", None)), nn.Conv2d):
        return None
    layer = trunk.encoder.layers[0] if hasattr(trunk.encoder, "layers") else None
    if not hasattr(getattr(layer, "self_attn", None), "q_proj") or not hasattr(trunk.embeddings, "position_embedding"):
        return None  # MLCD has no positions but rotary ones
    mask_arguments(type(layer))
    return trunk


@register_tower("transformers")
class TransformersTower(Tower):
    """``embeddings``, ``pre_layrnorm``, ``encoder.layers``, ``post_layernorm``; above them ``visual_projection``."""

    models = (
        "transformers: CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection; "
        "ChineseCLIP, AltCLIP, MetaCLIP 2 and CLIPSegModel likewise"
    )
    patched = PatchedTransformersTrunk

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.encoder.layers
        embeddings = trunk.embeddings
        self.patch_size = kernel_of(embeddings.patch_embedding)
        side = math.isqrt(base_of(embeddings.position_embedding).num_embeddings - self.prefix_tokens)
        self.native_grid = (side, side)
        self.native_size = pair(embeddings.image_size)

    @classmethod
    def find(cls, model: nn.Module) -> TransformersTower | None:
        trunk = find_transformers_trunk(model)
        if trunk is None or not (hasattr(trunk, "pre_layrnorm") and hasattr(trunk.embeddings, "class_embedding")):
            return None
        return cls(trunk, getattr(model, "visual_projection", None))

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        embeddings = self.trunk.embeddings
        patches = embeddings.patch_embedding(pixel_values.to(dtype_of(embeddings.patch_embedding)))
        positions = resize_positions(
            table_of(embeddings.position_embedding), self.native_grid, self.grid(pixel_values), position_resize
        )
        cls_token = embeddings.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.trunk.pre_layrnorm(tokens + positions.to(tokens.dtype))

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return TransformersBlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        output = block(tokens, **dict.fromkeys(mask_arguments(type(block))))
        return output[0] if isinstance(output, tuple) else output

    def project(self, tokens: Tensor) -> Tensor:
        return self.project_unnormed(self.trunk.post_layernorm(tokens))

    def project_unnormed(self, tokens: Tensor) -> Tensor:
        return tokens if self.projection is None else self.projection(tokens)

    def returned(self, tokens: Tensor) -> Tensor:
        """Tokens as the trunk's forward returns them: for CLIP before post-norm."""
        return tokens

    def pooled(self, tokens: Tensor) -> Tensor | None:
        """The ``pooler_output`` of tokens: for CLIP the CLS token after post-norm."""
        return self.trunk.post_layernorm(tokens[:, 0])
