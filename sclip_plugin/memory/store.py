"""A memory bank on disk: keys and values of regions, in append-only shards."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import SettingError
from ..importing import needs
from ..storage.files import locked_folder, write_atomically
from ..storage.parts import PartsFolder

ROWS_AT_ONCE = 2**16
APPROXIMATE_FROM = 1_000_000
"""Number of regions from which ``search="auto"`` uses FAISS."""


class Memory(Protocol):
    """What settings may have in hand: a `sclip_plugin.MemoryBank`."""

    @property
    def folder(self) -> str | Path: ...

    def identity(self) -> str: ...


class MemoryStore(PartsFolder):
    """Keys (N, C') and values (N, D) of each model, in half precision, with ids 0 to N - 1 that never change.

    ``bank.json`` names the models and settings that made them. A shard is a safetensors file that is written completely
    or not at all. Its header lists its pictures, so an interrupted build resumes, and holds a checksum of each tensor.

    Args:
        folder: with a ``bank.json``; see `create`.

    Raises:
        FileFormatError: no such folder, or no memory.
    """

    HEAD = "bank.json"
    FORMAT = "sclip_plugin memory 2"
    PARTS = "shard-*.safetensors"
    KIND = "memory"
    COMMAND = "sclip memory build FOLDER --out BANK"

    def pictures(self) -> dict[str, int]:
        """Hash of each picture -> number of its regions, in the order of the rows."""
        return {key: count for _, header in self._headers() for key, count in header}

    def _headers(self) -> Iterator[tuple[Path, list[tuple[str, int]]]]:
        for shard in self.parts():
            try:
                with safe_open(shard, framework="pt") as file:
                    pictures, checksum = file.metadata()["pictures"], int(file.metadata()["checksum"])
                if zlib.crc32(pictures.encode()) != checksum:
                    raise ValueError("its checksum is another")
                yield shard, [(str(key), int(count)) for key, count in json.loads(pictures)]
            except Exception as error:  # whatever a broken or foreign file makes of the reader
                raise self.spoilt(shard, error) from error

    def append(self, pictures: Sequence[tuple[str, int]], keys: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add a shard.

        Args:
            pictures: (hash, number of rows) of each picture, in order.
            keys: (n, C').
            values: (n, D) by the name of the model.
        """
        tensors = {"keys": keys.half().cpu().contiguous()}
        tensors |= {f"values.{name}": value.half().cpu().contiguous() for name, value in values.items()}
        with locked_folder(self.folder):
            text = json.dumps([list(picture) for picture in pictures])
            sums = {f"checksum of {name}": str(_checksum(tensor)) for name, tensor in tensors.items()}
            data = save(tensors, {"pictures": text, "checksum": str(zlib.crc32(text.encode())), **sums})
            write_atomically(self.next_part(), data)
        for name in ("files", "keys", "index"):
            self.__dict__.pop(name, None)

    def __len__(self) -> int:
        return sum(self.pictures().values())

    @cached_property
    def checked(self) -> dict[Any, Any]:
        """Of each model that was found to be the memory's own, the outside model of the keys."""
        return {}

    @cached_property
    def files(self) -> list[Any]:
        """The shards that hold regions, memory-mapped; their checksums are verified."""
        found = [self._opened(shard) for shard in self.parts()]
        found = [file for file in found if file.get_slice("keys").get_shape()[0]]
        if not found:
            raise SettingError(f"the memory {self.folder} has no regions yet: 'sclip memory build FOLDER --out BANK'.")
        return found

    def _opened(self, shard: Path) -> Any:
        try:
            file = safe_open(shard, framework="pt").__enter__()
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                if str(_checksum(file.get_tensor(name))) != file.metadata()[f"checksum of {name}"]:
                    raise ValueError(f"the checksum of {name} is another")
        except Exception as error:  # whatever a broken or foreign file makes of the reader
            raise self.spoilt(shard, error) from error
        return file

    @cached_property
    def keys(self) -> Tensor:
        """(N, C') float32, unit."""
        return F.normalize(torch.cat([file.get_tensor("keys") for file in self.files]).float(), dim=1, eps=1e-12)

    def values(self, name: str, rows: Tensor) -> Tensor:
        """(n, D) float32 of some rows; only these are read."""
        out, start = [], 0
        order = rows.unique()
        for file in self.files:
            count = file.get_slice("keys").get_shape()[0]
            own = order[(order >= start) & (order < start + count)] - start
            if len(own):
                out.append(file.get_tensor(f"values.{name}")[own].float())
            start += count
        return torch.cat(out)[torch.searchsorted(order, rows)]

    def nearest(self, queries: Tensor, count: int, search: str = "auto") -> Tensor:
        """The rows of the largest inner products of unit keys.

        Args:
            queries: (R, C'), unit.
            count: number of rows per query; missing ones are -1.
            search: ``"exact"``; ``"faiss"``, an inverted file with product quantisation, which needs the extra
                ``memory``; ``"auto"``: exact below a million rows.

        Returns:
            (R, count), best first.
        """
        if search == "faiss" or (search == "auto" and len(self.keys) >= APPROXIMATE_FROM):
            found = torch.from_numpy(self.index.search(queries.float().cpu().numpy(), min(count, len(self.keys)))[1])
        else:
            best = queries.new_empty(len(queries), 0, device="cpu")
            found = torch.empty(len(queries), 0, dtype=torch.long)
            for start in range(0, len(self.keys), ROWS_AT_ONCE):
                scores = queries.float().cpu() @ self.keys[start : start + ROWS_AT_ONCE].T
                rows = torch.arange(start, start + scores.shape[1]).expand_as(scores)
                best, at = torch.cat([best, scores], 1).topk(min(count, best.shape[1] + scores.shape[1]), dim=1)
                found = torch.cat([found, rows], 1).gather(1, at)
        return F.pad(found, (0, count - found.shape[1]), value=-1)

    @cached_property
    def index(self) -> Any:
        """FAISS's inverted file, with the published numbers of lists, sub-quantisers and probes."""
        faiss = needs("faiss", "memory")
        keys = self.keys.numpy()
        lists, width = max(1, int(8 * len(keys) ** 0.5)), keys.shape[1]
        parts = next(parts for parts in (32, 24, 16, 8, 4, 2, 1) if width % parts == 0)
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, parts, 8)
        index.nprobe = min(256, lists)
        index.train(keys)
        index.add(keys)
        return index


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data.cast("B")) if tensor.numel() else 0


def picture_key(pixels: np.ndarray) -> str:
    """What a picture is known by: a hash of its RGB pixels."""
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:32]
