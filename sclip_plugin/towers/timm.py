"""Vision transformers of timm that are CLIP image towers, alone or inside open_clip's ``TimmModel``.

With a CLS token the embedding is ``head(fc_norm(norm(tokens)))`` of that token. SigLIP towers have none and pool by
attention; their patches take the value path of the pooling head, as MaskCLIP does in CLIP's last block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, cat, nn

from ..errors import SettingError
from .base import BlockInput, PatchedTrunk, Tower, resize_positions, take_intermediates
from .layers import dtype_of, kernel_of, part_of
from .registry import register_tower


class TimmBlockInput(BlockInput):
    """timm's ``Block``: one qkv projection, optional norms of q and k, optional layer scale."""

    @property
    def num_heads(self) -> int:
        return self.block.attn.num_heads

    @property
    def scale(self) -> float:
        return self.block.attn.scale

    def _norm1(self, tokens: Tensor) -> Tensor:
        return self.block.norm1(tokens)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self._fused(self.block.attn.qkv, name, x)

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        norm = getattr(self.block.attn, name + "_norm", None)
        return heads if norm is None else norm(heads)

    def _out(self, merged: Tensor) -> Tensor:
        attention = self.block.attn
        merged = attention.norm(merged) if hasattr(attention, "norm") else merged
        return self.block.ls1(attention.proj(merged))

    def norm2(self, tokens: Tensor) -> Tensor:
        return self.block.norm2(tokens)

    def ffn(self, tokens: Tensor) -> Tensor:
        return self.block.ls2(self.block.mlp(self.norm2(tokens)))


class PatchedTimmTrunk(PatchedTrunk):
    """``forward_features``: the dense tokens after the final norm. ``forward``: the embedding, pooled as always."""

    if TYPE_CHECKING:
        norm: Any
        forward_head: Any

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        tokens, _ = self._dense_tokens(x, attn_mask, is_causal)
        return self.norm(tokens)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        _, for_embedding = self._dense_tokens(x, attn_mask, is_causal)
        return self.forward_head(self.norm(for_embedding))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,  # accepted for callers' sake
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        states: list[Tensor] = []
        tokens, _ = self._dense_tokens(x, attn_mask, is_causal, states)
        if norm:
            states = [self.norm(state) for state in states]
        tower = self._sclip_patch.tower(self)
        patches, prefix = take_intermediates(states, indices, tower.prefix_tokens, tower.grid(x), output_fmt)
        with_prefix = return_prefix_tokens and tower.prefix_tokens > 0
        if output_dict:
            output = {"image_intermediates": patches}
            if with_prefix:
                output["image_intermediates_prefix"] = prefix
            return output if intermediates_only else {**output, "image_features": self.norm(tokens)}
        taken = list(zip(patches, prefix, strict=True)) if with_prefix else patches
        return taken if intermediates_only else (self.norm(tokens), taken)

    def _dense_tokens(
        self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, hidden_states: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if attn_mask is not None or is_causal:
            raise SettingError("a patched model takes no attn_mask; call sclip_plugin.restore(model) to use one.")
        return self._sclip_patch.dense_tokens(self, x, hidden_states)


def find_timm_trunk(model: nn.Module) -> tuple[Any, nn.Module | None]:
    """A timm vision transformer in a model and the projection above it; None for the first where there is none."""
    visual: Any = getattr(model, "visual", model)
    trunk = getattr(visual, "trunk", visual)
    projection = visual.head if trunk is not visual else None
    parts = ("patch_embed", "blocks", "norm", "fc_norm", "global_pool", "num_prefix_tokens", "forward_head")
    if not all(hasattr(trunk, name) for name in parts) or hasattr(trunk, "dist_token"):
        return None, None
    if not hasattr(trunk.patch_embed, "proj"):
        return None, None
    pool = getattr(trunk, "attn_pool", None)
    if pool is not None and (not hasattr(pool, "kv") or pool.pos_embed is not None):
        return None, None
    if hasattr(projection, "pool") or not has_plain_attention(trunk.blocks[0]):
        return None, None  # a pool above the trunk takes a feature map
    return trunk, projection


def has_plain_attention(block: Any) -> bool:
    """One attention (vit_*_18x2 has two side by side), without a gate and not the difference of two."""
    attention = getattr(block, "attn", None)
    is_more = getattr(attention, "gate", None) is not None or hasattr(attention, "lambda_init")
    return attention is not None and not is_more


def is_plain_block(block: Any) -> bool:
    """timm's ``Block``: not EVA's, nor one whose parts have another order."""
    parts = all(hasattr(block, name) for name in ("norm1", "ls1", "norm2", "mlp", "ls2"))
    return parts and has_plain_attention(block) and isinstance(getattr(block.attn, "qkv", None), nn.Module)


@register_tower("timm")
class TimmTower(Tower):
    """timm's VisionTransformer with learned positions, with and without a projecting head."""

    models = (
        "timm: VisionTransformer (vit_*_clip_*, vit_*_siglip_*; with a convolutional stem vitamin_*, vit_base_mci), "
        "alone or in open_clip"
    )
    patched = PatchedTimmTrunk

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        super().__init__(trunk, projection)
        self.blocks = trunk.blocks
        self.patch_size = tuple(
            trunk.patch_embed.feat_ratio(as_scalar=False) if self.hybrid else kernel_of(trunk.patch_embed.proj)
        )
        self.native_grid = tuple(trunk.patch_embed.grid_size)
        self.native_size = trunk.patch_embed.img_size
        self.prefix_tokens = trunk.num_prefix_tokens
        self.pools_patches = getattr(trunk, "attn_pool", None) is not None or trunk.global_pool not in ("token", "")

    @classmethod
    def find(cls, model: nn.Module) -> TimmTower | None:
        trunk, projection = find_timm_trunk(model)
        if trunk is None:
            return None
        if getattr(trunk, "pos_embed", None) is None and not hasattr(trunk.patch_embed, "backbone"):
            return None  # positions of another kind; a convolutional stem may need none (ViTamin-XL)
        return cls(trunk, projection) if is_plain_block(trunk.blocks[0]) else None

    @property
    def hybrid(self) -> bool:
        """Whether a convolutional network makes the patches: MobileCLIP-B, ViTamin, ViTs on a ResNet."""
        return hasattr(self.trunk.patch_embed, "backbone")

    def patches(self, pixel_values: Tensor) -> Tensor:
        """(B, N, C), without positions."""
        embed = self.trunk.patch_embed
        pixel_values = pixel_values.to(dtype_of(embed))
        if self.hybrid:
            patches = embed(pixel_values)
            return patches if patches.dim() == 3 else patches.flatten(1, 2)  # of a trunk of any size: (B, h, w, C)
        return embed.norm(embed.proj(pixel_values).flatten(2).transpose(1, 2))

    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        trunk, grid = self.trunk, self.grid(pixel_values)
        patches = self.patches(pixel_values)
        prefix = [
            token.to(patches.dtype).expand(patches.shape[0], -1, -1)
            for token in (trunk.cls_token, getattr(trunk, "reg_token", None))
            if token is not None
        ]
        positions: Tensor | float = 0.0
        if trunk.pos_embed is not None:
            positions = resize_positions(trunk.pos_embed[0], self.native_grid, grid, position_resize).to(patches.dtype)
        if getattr(trunk, "no_embed_class", False):
            tokens = cat([*prefix, patches + positions], dim=1)
        else:
            tokens = cat([*prefix, patches], dim=1) + positions
        return trunk.norm_pre(tokens) if hasattr(trunk, "norm_pre") else tokens

    def embedding(self, tokens: Tensor) -> Tensor:
        pooled = self.trunk.forward_head(self.trunk.norm(tokens))
        return pooled if self.projection is None else self.projection(pooled)

    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        return TimmBlockInput(block, tokens)

    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return block(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        tokens = trunk.norm(tokens)
        pool = getattr(trunk, "attn_pool", None)
        if pool is not None:
            tokens = self._values(tokens)
            tokens = tokens + pool.mlp(pool.norm(tokens)) if pool.mlp is not None else tokens
        return self.project_unnormed(trunk.fc_norm(tokens))

    def _values(self, tokens: Tensor) -> Tensor:
        pool = self.trunk.attn_pool
        return pool.proj(part_of(pool.kv, tokens, 1, 2))

    def pool_input(self, tokens: Tensor) -> Tensor | None:
        return None if getattr(self.trunk, "attn_pool", None) is None else self.trunk.norm(tokens)

    def pool_output(self, tokens: Tensor) -> Tensor:
        return self.project_unnormed(self.trunk.fc_norm(self._values(tokens)))

    def project_unnormed(self, tokens: Tensor) -> Tensor:
        tokens = self.trunk.head(tokens)
        return tokens if self.projection is None else self.projection(tokens)
