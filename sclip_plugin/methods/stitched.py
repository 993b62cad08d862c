"""Windows joined before the last block, so that any method's attention spans the whole picture.

The mechanism of OV-Stitcher (arXiv 2604.08110), whose code is not published. Averaging overlaps is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..device import budget
from ..towers.running import Context, Window, before_last_block, drop_remainder
from .base import Method

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower


@dataclass(frozen=True)
class Stitched:
    """Runs windows separately through all blocks but the last, and joins their tokens there.

    The tokens of a patch are averaged over the windows that contain it, CLS over all windows, and tapped blocks in the
    same way. Windows start on whole patches. A single window runs as without stitching.

    Fields:
        method: the method of the last block; not one that takes whole pictures.
        taps: indices of further blocks to tap.
    """

    method: Method
    taps: tuple[int, ...] = ()

    def __call__(
        self, tower: Tower, pixel_values: Tensor, windows: Sequence[Window] = ()
    ) -> tuple[BlockInput, Context]:
        (given,) = windows
        seen = drop_remainder(pixel_values, tower.patch_size)
        grid, picture = tower.grid(seen), given.picture
        ph, pw = tower.patch_size
        side = [
            min(count, picture.window // patch or count) for count, patch in zip(grid, tower.patch_size, strict=True)
        ]
        steps = [max(1, picture.stride // patch) for patch in tower.patch_size]
        tops, lefts = (sorted({*range(0, n - s, step), n - s}) for n, s, step in zip(grid, side, steps, strict=True))
        corners = [(top, left) for top in tops for left in lefts]
        if len(corners) == 1:
            return self.method.reach_last_block(tower, pixel_values, None, windows, self.taps)
        cut = torch.cat([seen[..., y * ph : (y + side[0]) * ph, x * pw : (x + side[1]) * pw] for y, x in corners])
        limits, taps = picture.limits or budget(cut.device), (*self.method.taps(len(tower.blocks)), *self.taps)
        at_once = max(1, limits.tokens // self.method.tokens_at_once(tower, (cut.shape[2], cut.shape[3])))
        parts = [before_last_block(tower, p, taps, self.method.position_resize) for p in cut.split(at_once)]
        whole = tower.at_grid(grid)

        def joined(blocks: list[BlockInput]) -> BlockInput:
            tokens = join(torch.cat([block.tokens for block in blocks]), corners, side, grid, tower.prefix_tokens)
            return whole.block_input(blocks[0].block, tokens)

        context = Context(whole, pixel_values[:, :3], grid, windows=windows)
        context.taps = {tap: joined([context.taps[tap] for _, context in parts]) for tap in taps}
        return joined([block for block, _ in parts]), context


def join(
    tokens: Tensor, corners: Sequence[tuple[int, int]], side: Sequence[int], grid: tuple[int, int], prefix: int
) -> Tensor:
    """Tokens of a picture's windows, (n, P + N, C), to the whole's, (1, P + h w, C): means where windows overlap."""
    total = tokens.new_zeros(*grid, tokens.shape[-1], dtype=torch.float32)
    seen = tokens.new_zeros(*grid, 1, dtype=torch.float32)
    for (y, x), window in zip(corners, tokens[:, prefix:].unflatten(1, tuple(side)), strict=True):
        place = slice(y, y + side[0]), slice(x, x + side[1])
        total[place] += window
        seen[place] += 1
    first = tokens[:, :prefix].float().mean(dim=0)
    return torch.cat([first, (total / seen).flatten(0, 1)])[None].to(tokens.dtype)
