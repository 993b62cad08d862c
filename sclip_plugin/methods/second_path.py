"""A second path beside the untouched one through the last blocks: z ← z + out(attend(block)), without FFN.

It starts as the tokens that enter the first of these blocks. Its attention is computed from the untouched path, which
runs as usual. GEM, CLIP Surgery, ExCEL and AnomalyCLIP use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


def taps_of_last(count: int, depth: int) -> tuple[int, ...]:
    """Indices of the last ``count`` of ``depth`` blocks (all if there are fewer), without the very last.

    >>> taps_of_last(6, 12), taps_of_last(6, 3), taps_of_last(6, 1)
    ((6, 7, 8, 9, 10), (0, 1), ())
    """
    return tuple(range(max(0, depth - count), depth - 1))


def last_blocks(count: int, block: BlockInput, context: Context) -> list[BlockInput]:
    """The last ``count`` blocks with the untouched path's tokens: those of `taps_of_last`, then the last."""
    return [context.taps[index] for index in taps_of_last(count, context.depth)] + [block]


def second_path(blocks: Sequence[BlockInput], attend: Callable[[BlockInput], Tensor]) -> list[Tensor]:
    """The second path's tokens z, (B, T, C), after each of the blocks.

    Args:
        blocks: with the tokens of the untouched path.
        attend: a block to its attention's output per head, (B, H, T, d), before the output projection.
    """
    after = [blocks[0].tokens]
    for block in blocks:
        after.append(after[-1] + block.out(attend(block)))
    return after[1:]
