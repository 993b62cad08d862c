"""Several processes, started by torchrun: each evaluates its share of the pictures, all end with the same figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Fields:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def start(cls) -> Processes:
        """Join the others if torchrun started this process (it sets WORLD_SIZE), else be the only one."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        import torch.distributed as dist

        if not dist.is_initialized():
            # gloo: only counts and names are sent. Who is done waits for the slowest however long that takes; if one
            # dies, torchrun ends all.
            dist.init_process_group("gloo", timeout=timedelta(days=7))
        return cls(dist.get_rank(), dist.get_world_size())

    def stop(self) -> None:
        """Leave the others."""
        if self.world > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that reports."""
        return self.rank == 0

    def device(self) -> str:
        """The device for this process: its own GPU where there are GPUs, else the processor."""
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
        return "cpu"

    def share(self, items: Sequence[T]) -> list[T]:
        """Its part of what all must do; the parts differ in length by one at most and have nothing in common."""
        return list(items[self.rank :: self.world])

    def gather(self, value: T) -> list[T]:
        """Each process's value, in order of rank, for every process."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values
