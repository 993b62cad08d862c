"""Dense features of a frozen tower: embed, run the blocks, let the method replace the last one, project.

The one mechanism behind both uses: `dense_features` calls it on a model that stays as it is, and the forward that
`apply` gives a model calls it on that model's own tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .methods import Method
    from .towers.base import Tower


def dense_tokens(
    tower: Tower,
    pixel_values: Tensor,
    method: Method,
    *,
    keep_cls: bool,
    hidden_states: list[Tensor] | None = None,
    allow_remainder: bool = False,
    own_grid: bool = False,
) -> tuple[Tensor, Tensor]:
    """Tokens that leave the last block under a method, before post-norm and projection.

    Args:
        tower: of `find_tower`.
        pixel_values: (B, 3, H, W), normalised.
        method: what replaces the last block.
        keep_cls: the prefix rows (CLS) are those of the ordinary block, so that the image embedding stays what it was.
        hidden_states: if given, the tokens that enter each block, then the dense tokens, are appended to it.
        allow_remainder: see `dense_features`.
        own_grid: leave the patches on the grid of `Method.output_grid`; else they are resized to the tower's, bilinear:
            the number of a model's tokens stays what it is.

    Returns:
        The dense tokens, (B, P + N, C), and the tokens to read the image embedding off: the same ones, or with
        ``keep_cls`` on a tower that pools its patches all that the ordinary block gives.
    """
    if not allow_remainder:
        tower.grid(pixel_values)  # raises where there is one
    method.check_tower(tower)
    block, context = method.reach_last_block(tower, pixel_values, hidden_states)
    tokens = method(block, context) if tower.attends else block.tokens
    prefix = tower.prefix_tokens
    grid = method.output_grid(tower, (pixel_values.shape[-2], pixel_values.shape[-1]))
    if not own_grid and tuple(grid) != tuple(context.grid):
        tokens = torch.cat([tokens[:, :prefix], _regridded(tokens[:, prefix:], grid, context.grid)], dim=1)
    for_embedding = None
    if keep_cls and tower.pools_patches:
        for_embedding = context.tower.run_block(block.block, block.tokens)
        tokens = torch.cat([for_embedding[:, :prefix].to(tokens.dtype), tokens[:, prefix:]], dim=1)
    elif keep_cls and prefix:
        tokens = torch.cat([block.ordinary_rows(prefix).to(tokens.dtype), tokens[:, prefix:]], dim=1)
    if hidden_states is not None:
        hidden_states.append(tokens)
    return tokens, tokens if for_embedding is None else for_embedding


def dense_features(
    model: nn.Module | Tower,
    pixel_values: Tensor,
    method: str | Method = "csa",
    *,
    allow_remainder: bool = False,
    **options,
) -> Tensor:
    """Per-patch features of pictures in the space that CLIP shares with text; the model is not changed.

    Args:
        model: a CLIP of transformers, open_clip, timm or OpenAI's ``clip``, or its image tower alone.
        pixel_values: (B, 3, H, W), normalised as the model wants it, on the model's device. H and W may be any
            multiples of the patch size.
        method: a name of `list_methods`, or a `Method`.
        allow_remainder: take sides that the patch does not divide. As in the published code the tower does not see the
            last rows and columns of pixels that fill no patch; a method that looks at the pixels themselves (ResCLIP's
            first pass) does.
        **options: of the method, such as ``std=5.0`` for ``"naclip"``.

    Returns:
        (B, D, h, w), not normalised. D is the joint dimension, or the tower's width where the model has no projection.

    Raises:
        UnsupportedModelError: no registered tower knows the model's structure.
        UnknownNameError: no such method or option.
        ValueError: the patch does not divide a side, and ``allow_remainder`` is not set.

    Source: SCLIP, arXiv 2312.01597, for ``method="csa"``; each method names its own.

    Example:
        >>> import torch, sclip_plugin as sp
        >>> from transformers import CLIPModel
        >>> model = CLIPModel.from_pretrained(sp.demo_model())
        >>> sp.dense_features(model, torch.zeros(1, 3, 96, 64), method="csa").shape[2:]
        torch.Size([12, 8])
    """
    from .methods import make_method
    from .towers import Tower, find_tower

    tower = model if isinstance(model, Tower) else find_tower(model)
    method = make_method(method, options)
    tokens, _ = dense_tokens(
        tower, pixel_values, method, keep_cls=False, allow_remainder=allow_remainder, own_grid=True
    )
    features = tower.project(tokens[:, tower.prefix_tokens :])
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    return features.transpose(1, 2).unflatten(2, method.output_grid(tower, size))


def _regridded(tokens: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Patches (B, a b, C) to another grid, bilinear."""
    maps = tokens.mT.unflatten(2, grid)
    return F.interpolate(maps.float(), size=target, mode="bilinear", align_corners=False).flatten(2).mT.to(tokens.dtype)
