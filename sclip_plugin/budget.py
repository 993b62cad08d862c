"""How much is computed at once, by kind of device: docs/performance.md says what was measured for it, and what not."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Budget:
    """Sizes that change how fast something is computed and how much memory it takes, and of what comes out at most
    the last digits.

    Fields:
        tokens: of windows, or of prompts, that go through a tower together.
        tile_values: scores of pixels that are at hand at once.
        tile_columns: pixel columns of such a tile.
        pamr_values: scores of pixels that PAMR smooths together.
    """

    tokens: int
    tile_values: int
    tile_columns: int
    pamr_values: int


# A tile stays in a core's cache; what PAMR and the tower's widest layer write stays below the 32 MiB from which glibc
# gives memory back to the system each time.
CPU = Budget(tokens=1200, tile_values=2**18, tile_columns=128, pamr_values=6 * 2**20)
# Few and large kernels.
ACCELERATOR = Budget(tokens=2**14, tile_values=2**26, tile_columns=2**12, pamr_values=2**28)


def budget(device: torch.device) -> Budget:
    return CPU if device.type == "cpu" else ACCELERATOR
