"""Single precision where it matters, whatever a caller's autocast says."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast is for the towers' layers. Scores, and what is kept, are computed as they stand.

    Example:
        >>> import torch
        >>> from sclip_plugin.precision import without_autocast
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(torch.device("cpu")):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.float32
    """
    if torch.amp.is_autocast_available(device.type):  # elsewhere even switching it off is an error
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
