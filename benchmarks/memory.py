"""A memory: how fast pictures are remembered, how fast a picture of regions asks, how much it takes on disk.

python benchmarks/memory.py --regions 100000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

import sclip_plugin as sp
from sclip_plugin.memory import MemoryStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=64, help="that are remembered, for the rate")
    parser.add_argument("--key-width", type=int, default=768)
    parser.add_argument("--value-width", type=int, default=512)
    parser.add_argument("--asked", type=int, default=100, help="regions of a picture that ask")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seg = sp.Segmenter.from_pretrained("demo", presence=None)
        scenes = [sp.draw_scene(seed=seed).picture for seed in range(given.pictures)]
        start = time.perf_counter()
        bank = sp.MemoryBank.build(seg, scenes, Path(folder) / "built", guide=seg.model.vision_model, masks="slic")
        seconds = time.perf_counter() - start
        print(f"demo model: {len(scenes)} pictures, {len(bank)} regions in {seconds:.1f} s")

        store = MemoryStore.create(Path(folder) / "bank", {})
        generator = torch.Generator().manual_seed(0)
        for first in range(0, given.regions, 10_000):
            count = min(10_000, given.regions - first)
            keys = torch.randn(count, given.key_width, generator=generator)
            store.append([(str(first), count)], keys, {"main": torch.randn(count, given.value_width)})
        size = sum(shard.stat().st_size for shard in store.parts())
        widths = f"keys of {given.key_width}, values of {given.value_width}"
        print(f"{given.regions} regions, {widths}: {size / 2**20:.0f} MB")
        start = time.perf_counter()
        store.nearest(store.keys[:1], 20)
        print(f"opened in {time.perf_counter() - start:.2f} s")
        for search in ("exact", "faiss"):
            try:
                store.nearest(store.keys[:1], 20, search)
            except sp.SclipError as error:
                print(error)
                continue
            start = time.perf_counter()
            for _ in range(5):
                rows = store.nearest(store.keys[: given.asked], 20, search)
            print(f"{search}: {(time.perf_counter() - start) / 5 * 1000:.0f} ms for {given.asked} regions", end="")
            print(f", own row first for {(rows[:, 0] == torch.arange(len(rows))).float().mean():.0%}")
        start = time.perf_counter()
        store.values("main", rows.flatten())
        print(f"values of {rows.numel()} rows: {(time.perf_counter() - start) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
