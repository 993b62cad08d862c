"""What methods that look through an outside model cost, beside the models' own forwards.

    python benchmarks/outside.py                     # ViT-B/16 with DINO-B/8- and SAM-B-sized random models

For each method and size of picture: csa on the same windows, the outside models' own forwards as transformers runs them
(DINO on those windows, SAM on its square), the method, and its time as a share of the two together. Random weights,
whole pictures with 21 classes, median of several runs. Prints a Markdown table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))

SIZES = [(375, 500), (768, 1024)]  # (height, width)
# Windows as both are published for VOC: short side, window, stride, and DINO's patch.
WINDOWS = {"proxyclip": (336, 336, 112, 8), "trident": (448, 336, 224, 16)}


def main(
    runs: Annotated[int, typer.Option(help="Runs of each, of which the median is taken.")] = 1,
    method: Annotated[str | None, typer.Option(help="One of them only.")] = None,
) -> None:
    print("| method | picture | csa | outside models | method | of both | csa, MiB | outside, MiB | method, MiB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in [method] if method else WINDOWS:
        for size in SIZES:
            seconds, memory = measured(name, size, runs)
            share = seconds[name] / (seconds["csa"] + seconds["outside"])
            times, peaks = ([values[path] for path in ("csa", "outside", name)] for values in (seconds, memory))
            shown = [*(f"{time:.2f} s" for time in times), f"{share:.2f}", *(f"{peak:.0f}" for peak in peaks)]
            print(f"| {name} | {size[1]} x {size[0]} | {' | '.join(shown)} |", flush=True)


def measured(name: str, size: tuple[int, int], runs: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds, and MiB at most, of csa, of the outside models' own forwards, and of a method."""
    import torch
    from scenario import median_times, peak_memory, scenario
    from transformers import SamConfig, SamModel, ViTConfig, ViTModel

    from sclip_plugin.methods import make_method
    from sclip_plugin.segment.windows import WindowPlan

    short, window, stride, patch = WINDOWS[name]
    made = scenario("ViT-B-16", size, 21)
    settings = {"resize_short_side": short, "window": window, "stride": stride}
    dino = ViTModel(ViTConfig(patch_size=patch), add_pooling_layer=False).eval()
    sam = SamModel(SamConfig()).eval() if name == "trident" else None
    chosen = make_method(name, {"guide": dino, **({} if sam is None else {"sam": sam})})
    resized = made.segmenter.prepare(made.picture, **settings)[1].shape[1:]
    count = len(WindowPlan.of((resized[0], resized[1]), window, stride, (16, 16)))

    def segment(method):
        return made.segmenter(made.picture, made.classes, method=method, **settings)

    @torch.inference_mode()
    def outside():
        for _ in range(count):
            dino(torch.zeros(1, 3, window, window), interpolate_pos_encoding=True)
        if sam is not None:
            sam.vision_encoder(torch.zeros(1, 3, 1024, 1024))

    def whole():
        for guide in chosen.guides(made.segmenter.tower):
            guide._last = None  # SAM's last picture is remembered, and is not to be here
        segment(chosen)

    paths = {"csa": lambda: segment("csa"), "outside": outside, name: whole}
    return median_times(paths, runs), {path: peak_memory(run) for path, run in paths.items()}


if __name__ == "__main__":
    typer.run(main)
