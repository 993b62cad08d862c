"""Dense features of a frozen tower: embed, run the blocks, let the method replace the last one, project.

The one mechanism behind both uses: `dense_features` calls it on a model that stays as it is, and the forward that
`apply` gives a model calls it on that model's own tower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .methods import Method
    from .towers.base import BlockInput, Tower
    from .towers.running import Context, Window

Reach: TypeAlias = "Callable[[Tower, Tensor, Sequence[Window]], tuple[BlockInput, Context]]"


@dataclass(frozen=True)
class Ran:
    """What a method made of a batch of pictures.

    Attributes:
        tokens: what the method gave: (B, P + N, C), or of a `PictureMethod` (B, N, D) in the joint space.
        grid: (a, b) that the patches stand on.
        spread: see `Dense`; None where rows are patches.
        for_embedding: the tokens to read the image embedding off; None unless asked for.
        context: of the blocks that ran.
    """

    tokens: Tensor
    grid: tuple[int, int]
    spread: Callable[[Tensor], Tensor] | None
    for_embedding: Tensor | None
    context: Context


def run_method(
    tower: Tower,
    pixel_values: Tensor,
    method: Method,
    *,
    keep_cls: bool,
    hidden_states: list[Tensor] | None = None,
    windows: Sequence[Window] = (),
    reach: Reach | None = None,
) -> Ran:
    """Tokens that leave the last block under a method, before post-norm and projection.

    Args:
        tower: of `find_tower`.
        pixel_values: (B, 3, H, W), normalised.
        method: what replaces the last block.
        keep_cls: the prefix rows (CLS) are those of the ordinary block, so that the image embedding stays what it was.
            On a tower that pools its patches, the embedding is read off all that the ordinary block gives.
        hidden_states: if given, the tokens that enter each block are appended to it.
        windows: what the pictures of the batch are windows of, for methods that want to know.
        reach: how the last block is reached, in place of the method's own way.
    """
    from .methods import Dense, PictureMethod

    method.check_tower(tower)
    if reach is None:
        block, context = method.reach_last_block(tower, pixel_values, hidden_states, windows)
    else:
        block, context = reach(tower, pixel_values, windows)
    given = method(block, context) if tower.attends else block.tokens
    dense = given if isinstance(given, Dense) else Dense(given)
    tokens, prefix, ordinary = dense.tokens, tower.prefix_tokens, None
    if keep_cls and (tower.pools_patches or prefix or isinstance(method, PictureMethod)):
        whole = tower.pools_patches or not prefix
        ordinary = context.tower.run_block(block.block, block.tokens) if whole else block.ordinary_rows(prefix)
    if ordinary is not None and not isinstance(method, PictureMethod):
        tokens = torch.cat([ordinary[:, :prefix].to(tokens.dtype), tokens[:, prefix:]], dim=1)
        ordinary = ordinary if tower.pools_patches else tokens
    return Ran(tokens, dense.grid or context.grid, dense.spread, ordinary if keep_cls else None, context)


def dense_tokens(
    tower: Tower,
    pixel_values: Tensor,
    method: Method,
    *,
    keep_cls: bool,
    hidden_states: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `run_method` gives, on the tower's own grid: the number of a model's tokens stays what it is.

    Sides that the patch does not divide are refused. Patches that a method has on another grid are resized, bilinear.
    The dense tokens are the last of the hidden states.

    Returns:
        The dense tokens (B, P + N, C), and the tokens to read the image embedding off.
    """
    tower.grid(pixel_values)  # raises where there is a remainder
    ran = run_method(tower, pixel_values, method, keep_cls=keep_cls, hidden_states=hidden_states)
    tokens, for_embedding = ran.tokens, ran.tokens if ran.for_embedding is None else ran.for_embedding
    if ran.grid != ran.context.grid:
        patches = tokens[:, tower.prefix_tokens :].mT.unflatten(2, ran.grid)
        resized = F.interpolate(patches.float(), size=ran.context.grid, mode="bilinear", align_corners=False)
        resized = resized.flatten(2).mT.to(tokens.dtype)
        whole = torch.cat([tokens[:, : tower.prefix_tokens], resized], dim=1)
        tokens, for_embedding = whole, whole if for_embedding is tokens else for_embedding
    if hidden_states is not None:
        hidden_states.append(tokens)
    return tokens, for_embedding


def projected(
    tower: Tower,
    pixel_values: Tensor,
    method: Method,
    windows: Sequence[Window] = (),
    embedding: bool = True,
    reach: Reach | None = None,
) -> tuple[Tensor, Ran, Tensor | None]:
    """What a method's rows are in the joint space, and what the model itself says of each window.

    Returns:
        (B, N, D), not normalised; what the method made, which says on which grid they are; and (B, D) image
        embeddings, not normalised, None where ``embedding`` is False.
    """
    from .methods import PictureMethod

    ran = run_method(tower, pixel_values, method, keep_cls=embedding, windows=windows, reach=reach)
    joint = isinstance(method, PictureMethod)
    features = ran.tokens if joint else tower.project(ran.tokens[:, tower.prefix_tokens :])
    if not embedding:
        return features, ran, None
    return features, ran, tower.embedding(ran.tokens if ran.for_embedding is None else ran.for_embedding)


def dense_and_embedding(
    tower: Tower, pixel_values: Tensor, method: Method, windows: Sequence[Window] = (), embedding: bool = True
) -> tuple[Tensor, Tensor | None]:
    """`dense_features` of windows with any sides, and beside them what the model itself says of each.

    Returns:
        (B, D, a, b) on the method's own grid, and (B, D) image embeddings, not normalised; None for those where
        ``embedding`` is False.
    """
    features, ran, embedded = projected(tower, pixel_values, method, windows, embedding)
    return features.mT.unflatten(2, ran.grid), embedded


def image_embeddings(tower: Tower, pixel_values: Tensor) -> Tensor:
    """What the model itself says of whole pictures: (B, 3, H, W), normalised, to (B, D), not normalised."""
    from .towers.running import before_last_block

    block, context = before_last_block(tower, pixel_values)
    if tower.pools_patches or not tower.prefix_tokens:
        return tower.embedding(context.tower.run_block(block.block, block.tokens))
    return tower.embedding(block.ordinary_rows(tower.prefix_tokens))


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
        A method that looks through an outside model may have another grid than the tower's patches.

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
    chosen = make_method(method, options)
    if not allow_remainder:
        tower.grid(pixel_values)  # raises where there is one
    return dense_and_embedding(tower, pixel_values, chosen, embedding=False)[0]
