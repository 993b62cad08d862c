"""What LPOSS and LPOSS+ cost after the towers are done: seconds and memory beside a picture's own.

    python benchmarks/lposs.py

A picture of 448 x 600, windows of 224 at stride 112 (2,940 patches), k = 400; random features and colours. Each case in
a process of its own, so that its peak memory is its own; one core, and its seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

CASES = [("lposs", 21), ("lposs", 150), ("lposs_plus", 21), ("lposs_plus", 150)]


def one(step: str, names: int) -> None:
    import torch
    import torch.nn.functional as F

    from sclip_plugin.segment.windows import WindowPlan
    from sclip_plugin.steps.lposs import LPOSS, LPOSSPlus, conjugate_gradients

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    plan = WindowPlan.of((448, 600), 224, 112, (16, 16))
    count = len(plan) * 14 * 14
    values = F.normalize(torch.randn(count, 768, generator=generator), dim=1)
    corners = torch.tensor([box[:2] for box in plan.boxes()]).repeat_interleave(196, dim=0)
    rows, columns = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    where = (corners + (torch.stack([rows, columns], dim=-1).view(196, 2) * 16 + 8).repeat(len(plan), 1)).float()
    scores = torch.rand(count, names, generator=generator)
    pixels = torch.rand(3, 448, 600, generator=generator)
    maps = torch.rand(448, 600, names, generator=generator) if step == "lposs_plus" else None
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if maps is None:
        rule = LPOSS()
        graph = rule.graph(values, where)
        conjugate_gradients(lambda z: z - 0.95 * (graph @ z), scores.double(), 10)
    else:
        LPOSSPlus().of_pixels(maps, pixels)
    seconds = time.process_time() - start
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    which = "patches" if maps is None else "pixels alone"
    print(f"| `{step}`, {which} | {names} | {seconds:.1f} s | {more:.0f} MB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("STEP", "NAMES"))
    given = parser.parse_args()
    if given.one:
        return one(given.one[0], int(given.one[1]))
    print("| step | names | one core | memory |\n|---|---:|---:|---:|", flush=True)
    for step, names in CASES:
        subprocess.run([sys.executable, __file__, "--one", step, str(names)], check=True)


if __name__ == "__main__":
    main()
