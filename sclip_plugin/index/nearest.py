"""The regions nearest to words among millions: FAISS's 4-bit codes of all of them, which say whom to look at exactly.

The codes are kept beside the parts that they are of, ``codes-NNNNNN-PARTS-SUM.faiss`` for the first NNNNNN parts, of
which PARTS is a hash; SUM is the file's own checksum. They may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..importing import needs
from ..storage.files import write_atomically
from .store import IndexStore

TRAINED_ON = 2**16
ROWS_AT_ONCE = 2**16


class Codes:
    """Codes of all regions of an index.

    Args:
        store: whose regions; codes on disk are taken, those of later parts are computed.
        trained: compute all of them from a codebook of today's regions.
    """

    index: Any

    def __init__(self, store: IndexStore, trained: bool = False) -> None:
        self.store = store
        found = None if trained else _read(store)
        self.parts, self.index = found or (0, _trained(store))
        self.refresh()

    def refresh(self) -> None:
        """Add the parts that are new in the store."""
        for part in range(self.parts, len(self.store)):
            vectors, scales = self.store.regions(part)
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                self.index.add(vectors[rows].astype(np.float32) * scales[rows, None])
        self.parts = len(self.store)

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """The numbers of the ``count`` regions whose codes have the largest inner products with a vector, (1, D)."""
        found = self.index.search(vector, min(count, self.index.ntotal))[1][0]
        return found[found >= 0]

    def save(self) -> None:
        """Keep them; all others go."""
        data = needs("faiss", "index").serialize_index(self.index).tobytes()
        path = self.store.folder / f"codes-{self.parts:06}-{_hash(self.store, self.parts)}-{zlib.crc32(data):08x}.faiss"
        write_atomically(path, data)
        for old in self.store.folder.glob("codes-*.faiss"):
            if old != path:
                old.unlink(missing_ok=True)


def update_codes(store: IndexStore, least: int) -> None:
    """See that codes of all regions are on disk, where there are as many as ``least``.

    Those of new parts are added once they are a tenth of all; where they are more than half, the codebook is made anew.
    """
    total = int(store.starts()[-1])
    if total < least:
        return
    saved = _saved(store)
    covered = sum(len(store.regions(part)[1]) for part in range(saved[-1][0])) if saved else 0
    if total - covered > total / 10:
        Codes(store, trained=total - covered > covered).save()


def _saved(store: IndexStore) -> list[tuple[int, Path]]:
    """The files of codes of parts that are as they were: of how many each is, those of most at the end."""
    found = []
    for path in store.folder.glob("codes-*-*-*.faiss"):
        _, count, parts, _ = path.stem.split("-")
        if count.isdecimal() and int(count) <= len(store) and parts == _hash(store, int(count)):
            found.append((int(count), path))
    return sorted(found)


def _hash(store: IndexStore, count: int) -> str:
    return hashlib.sha256(repr(store.digests[:count]).encode()).hexdigest()[:16]


def _read(store: IndexStore) -> tuple[int, Any] | None:
    faiss = needs("faiss", "index")
    for count, path in reversed(_saved(store)):
        try:
            data = path.read_bytes()
            if f"{zlib.crc32(data):08x}" == path.stem.split("-")[-1]:
                return count, faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except (OSError, RuntimeError):  # gone since, or broken: what it says can be computed
            continue
    return None


def _trained(store: IndexStore) -> Any:
    faiss = needs("faiss", "index")
    numbers = np.sort(np.random.default_rng(0).permutation(int(store.starts()[-1]))[:TRAINED_ON])
    vectors, scales = store.region_vectors(numbers)
    width = vectors.shape[1]
    bits = max(parts for parts in range(1, 65) if width % parts == 0)
    index = faiss.IndexPQFastScan(width, bits, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors.astype(np.float32) * scales[:, None])
    return index
