"""What a run costs: the largest memory that a device, or the process, took since a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESET = "5"  # what Linux takes as: forget the peak


class PeakMemory:
    """The peak from now on.

    Args:
        device: of the model. On CUDA what tensors took there is counted; else the process's resident memory, which only
            Linux tells.

    Example:
        >>> from sclip_plugin.evaluation.cost import PeakMemory
        >>> peak = PeakMemory(None)
        >>> peak.read() >= 0
        True
    """

    def __init__(self, device: Any) -> None:
        self.device = device if getattr(device, "type", "") == "cuda" else None
        self.own = Path("/proc/self")
        if self.device is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            (self.own / "clear_refs").write_text(RESET)
        except OSError:  # another system, or one that forbids it: nothing is known
            self.own = Path()

    def read(self) -> int:
        """Bytes; 0 where unknown."""
        if self.device is not None:
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = (self.own / "status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
