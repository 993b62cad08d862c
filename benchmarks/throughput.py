"""Pictures per second: streamed through the package, through the tower alone, and through the published procedure.

    python benchmarks/throughput.py                                    # on CUDA where there is one
    python benchmarks/throughput.py --device cpu --tower ViT-B-16 --dtype float32,bfloat16 --pictures 8

Pictures are decoded and in memory, 500 x 375, six windows each, VOC's 21 classes. Ours is `Segmenter.stream`; the
tower's own limit is plain CLIP's forward of as many windows in the same batches, already on the device. `--tokens`
varies the size of a batch (`sclip_plugin.device.budget`). Random weights. Writes Markdown to standard output.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))


def rates(tower: str, dtype: str, device: str, tokens: int, pictures: int, runs: int) -> tuple[float, float, float]:
    """Pictures per second of the tower alone, of ours, and of the plain procedure (which runs an eighth of them)."""
    import plain
    import torch
    from scenario import STRIDE, WINDOW, median_times, scenario

    from sclip_plugin import device as budget
    from sclip_plugin.device import DTYPES
    from sclip_plugin.segment.windows import WindowPlan

    s = scenario(tower, (375, 500), 21)
    s.model.to(device=device, dtype=DTYPES[dtype])
    limits = dataclasses.replace(budget.budget(torch.device(device)), tokens=tokens)
    plan = WindowPlan.of(s.resized, WINDOW, STRIDE, s.segmenter.tower.patch_size)
    batch = max(1, tokens // (plan.patches[0] * plan.patches[1] + 1))
    passes = -(-pictures * len(plan) // batch)
    windows = torch.randn(batch, 3, *plan.window, device=device, dtype=DTYPES[dtype])
    arguments = s.plain_arguments()
    some = max(1, pictures // 8)

    def finished(work):
        for _ in work:
            pass
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    paths = {
        "tower": lambda: finished(s.model.visual(windows) for _ in range(passes)),
        "ours": lambda: finished(s.segmenter.stream([s.picture] * pictures, s.classes)),
        "plain": lambda: finished(plain.segment(s.model.visual, **arguments).cpu() for _ in range(some)),
    }
    before = budget.CPU, budget.ACCELERATOR
    budget.CPU = budget.ACCELERATOR = limits
    try:
        with torch.inference_mode():
            seconds = median_times(paths, runs)
    finally:
        budget.CPU, budget.ACCELERATOR = before
    return passes * batch / len(plan) / seconds["tower"], pictures / seconds["ours"], some / seconds["plain"]


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda, …; CUDA where there is one.")] = "",
    tower: Annotated[str, typer.Option(help="Architectures of open_clip, between commas.")] = "ViT-B-16,ViT-L-14",
    dtype: Annotated[str, typer.Option(help="Of the weights, between commas.")] = "float16,bfloat16,float32",
    tokens: Annotated[str, typer.Option(help="Tokens in a batch, between commas; the package's own if empty.")] = "",
    pictures: Annotated[int, typer.Option(help="Pictures in a run.")] = 64,
    runs: Annotated[int, typer.Option(help="Runs, of which the median is taken.")] = 5,
) -> None:
    import torch
    from scenario import machine, table

    from sclip_plugin.device import budget

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_cuda = torch.device(device).type == "cuda"
    print(f"{torch.cuda.get_device_name(device) if on_cuda else machine()}; pictures per second\n")
    rows = []
    for arch in tower.split(","):
        for precision in dtype.split(","):
            for count in tokens.split(",") if tokens else [budget(torch.device(device)).tokens]:
                alone, ours, plainly = rates(arch, precision, device, int(count), pictures, runs)
                seen = f"{alone:.2f} {ours:.2f} {ours / alone:.2f} {plainly:.2f} {ours / plainly:.1f}"
                rows.append([arch, precision, count, *seen.split()])
    table(["tower", "dtype", "tokens", "tower alone", "ours", "of the tower", "plain", "ours / plain"], rows)


if __name__ == "__main__":
    typer.run(main)
