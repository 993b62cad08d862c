"""A tower up to its last block, and the context that a method gets beside that block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..device import Budget
from ..errors import UnsupportedModelError
from .base import BlockInput, Tower
from .layers import is_hooked

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


@dataclass(eq=False)
class WholePicture:
    """The picture that windows were cut from: one object for all its windows, in whatever batches they come.

    Attributes:
        pixels: (3, H, W), of the size at which windows are cut: uint8, or floating point and normalised.
        original: as it was given, RGB; None where only pixels are known.
        window, stride: of the settings, in pixels; a window of 0 is the whole picture.
        regions: the id map (H', W') of the settings' masks at the size of the label map, when it is called; None where
            there are no masks.
        limits: how much is computed at once; what suits the device where None.
        masks: what ``regions`` is made of: an id map, or masks (R, H', W') that may overlap.
    """

    pixels: Tensor
    original: Image.Image | None = None
    window: int = 0
    stride: int = 1
    regions: Callable[[], np.ndarray] | None = None
    limits: Budget | None = None
    masks: Callable[[], np.ndarray] | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What a method computes once a picture, under a key of its own; gone when the picture's last window is."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class Window:
    """Where a window lies in its picture.

    Attributes:
        picture: the whole of it.
        box: (top, left, height, width) in its ``pixels``, without the padding that a method may ask for.
    """

    picture: WholePicture
    box: tuple[int, int, int, int]


@dataclass
class Context:
    """What a method may know beside the last block.

    Attributes:
        tower: the tower that is running; for its `project`, use `Context.project`.
        pixel_values: (B, 3, H, W), the picture with the rows and columns of pixels that fill no patch, if it has any.
        grid: (h, w) in patches. N = h w patches follow ``prefix_tokens`` others, in row-major order.
        taps: for each index the method named in `Method.taps`, that block with the tokens that entered it.
        windows: of each picture of the batch the window that it is, where a segmenter cut it; else empty.
    """

    tower: Tower
    pixel_values: Tensor
    grid: tuple[int, int]
    taps: dict[int, BlockInput] = field(default_factory=dict)
    windows: Sequence[Window] = ()

    @property
    def prefix_tokens(self) -> int:
        return self.tower.prefix_tokens

    @property
    def depth(self) -> int:
        return len(self.tower.blocks)

    def project(self, tokens: Tensor) -> Tensor:
        """Post-norm and projection of tokens into the joint space, (B, T, C) to (B, T, D)."""
        return self.tower.project(tokens)


def before_last_block(
    tower: Tower,
    pixel_values: Tensor,
    taps: tuple[int, ...] = (),
    position_resize: str = "scale_factor",
    hidden_states: list[Tensor] | None = None,
    windows: Sequence[Window] = (),
) -> tuple[BlockInput, Context]:
    """Run all blocks but the last.

    Args:
        tower: of `find_tower`.
        pixel_values: (B, 3, H, W), normalised. The tower does not see rows and columns of pixels that fill no patch.
        taps: indices of earlier blocks whose input is kept for the method.
        position_resize: how positional embeddings reach this grid; see `Method`.
        hidden_states: if given, the tokens that enter each block are appended to it.
        windows: for the context.

    Returns:
        The last block with the tokens that enter it, and the context: what the method is called with.
    """
    check_weights(tower, pixel_values)
    given: BlockInput
    whole_patches = drop_remainder(pixel_values, tower.patch_size)
    grid = tower.grid(whole_patches)
    tower = tower.at_grid(grid)
    context = Context(tower, pixel_values[:, :3], grid, windows=windows)
    tokens = tower.embed(whole_patches, position_resize)
    last = len(tower.blocks) - 1
    for index, block in enumerate(tower.blocks):
        if hidden_states is not None:
            hidden_states.append(tokens)
        if index in taps or index == last:
            given = tower.block_input(block, tokens)
            check_parts(tower, given)
            if index in taps:
                context.taps[index] = given
        if index < last:
            tokens = tower.run_block(block, tokens)
    return given, context


def check_weights(tower: Tower, pixel_values: Tensor) -> None:
    """Refuse a last block whose weights come only when it is called whole, since a method calls its parts.

    Raises:
        UnsupportedModelError: they are sharded (FSDP2) or offloaded (accelerate).
    """
    if torch.compiler.is_compiling():  # a graph is made of weights that are there
        return
    weight = next(tower.blocks[-1].parameters(), None)
    if type(weight).__name__ == "DTensor":
        raise UnsupportedModelError(
            f"the last block of {type(tower.trunk).__name__} is sharded over processes (DTensor), and a method calls "
            "its parts. Call unshard() on it and on the modules above it first, or shard all blocks but the last."
        )
    if weight is not None and weight.is_meta and not pixel_values.is_meta:
        raise UnsupportedModelError(
            f"the weights of {type(tower.trunk).__name__} are offloaded, and a method calls the parts of its last "
            "block, past the hooks that fetch them. Load it onto one device, with accelerate's hooks removed "
            "(accelerate.hooks.remove_hook_from_submodules(model))."
        )


def check_parts(tower: Tower, given: BlockInput) -> None:
    """Refuse a block that as a whole gives something else than its parts, which a method calls.

    They are compared where a module in it runs more than its class's forward: a hook on a projection takes part, one on
    the attention or on the block does only if it changes nothing.

    Raises:
        UnsupportedModelError: a hook on a module that a method does not call changes what the block gives.
    """
    block, tokens = given.block, given.tokens
    if torch.compiler.is_compiling() or not tower.calls_blocks:
        return
    if not any(is_hooked(module) for module in block.modules()):
        return
    with torch.no_grad():
        whole, attended = tower.run_block(block, tokens), given.after_attention()
        parts = attended + given.ffn(attended)
    widest = max(torch.finfo(tensor.dtype).eps for tensor in (whole, parts, given.v))
    if (parts - whole).norm() > widest**0.5 * (whole - tokens).norm():
        hooked = next(type(module).__name__ for module in block.modules() if is_hooked(module))
        raise UnsupportedModelError(
            f"a forward hook (on {hooked}) in a block of {type(tower.trunk).__name__} changes what the block gives, "
            "and a method calls the block's parts, past the hook. Put it on one of the projections of queries, keys, "
            "values and output, or remove it."
        )


def drop_remainder(pixel_values: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """The pixels without the last rows and columns that fill no patch, as a view."""
    height, width = (side // patch * patch for side, patch in zip(pixel_values.shape[-2:], patch_size, strict=True))
    return pixel_values[..., :height, :width]
