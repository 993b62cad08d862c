"""What depends on the kind of device: how much is computed at once, in which precision, and outside whose autocast.

docs/performance.md says what was measured for the sizes, and what not.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
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


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def fastest_dtype(device: torch.device) -> torch.dtype:
    """What weights are fastest in, where they are little less exact: ``dtype="auto"``.

    On CUDA float16, in which OpenAI's own loader has the weights there. On a CPU bfloat16 where the processor
    multiplies matrices of it (AMX), else float32.
    """
    if device.type == "cuda":
        return torch.float16
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # not before torch 2.6
    return torch.bfloat16 if device.type == "cpu" and has_amx() else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast is for the towers' layers. Scores, and what is kept, are computed as they stand.

    Example:
        >>> import torch
        >>> from sclip_plugin.device import without_autocast
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(torch.device("cpu")):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.float32
    """
    if torch.amp.is_autocast_available(device.type):  # elsewhere even switching it off is an error
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
