"""What each method costs, relative to plain CLIP's forward of the same windows.

    python benchmarks/methods.py                     # ViT-B/16, four windows of 224, 56 names

Random weights, all methods in one process and in turns, median of several runs. Prints a Markdown table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))


def main(
    tower: Annotated[str, typer.Option(help="An architecture of open_clip.")] = "ViT-B-16",
    windows: Annotated[int, typer.Option(help="Windows in the batch.")] = 4,
    runs: Annotated[int, typer.Option(help="Runs of each method, of which the median is taken.")] = 7,
) -> None:
    import torch
    from scenario import median_times, scenario

    from sclip_plugin.dense import dense_features
    from sclip_plugin.methods import make_method, methods_alone

    made = scenario(tower, (64, 64), 21)
    model, seg = made.model, made.segmenter
    _, text = seg.text_embeddings(made.classes)
    side = model.visual.image_size[0]
    pixels = torch.nn.functional.interpolate(torch.randn(windows, 3, 14, 14), size=(side, side), mode="bicubic")

    def forward(name: str):
        method = make_method(name)
        if method.needs_text:
            method = make_method(method, {"text": text})
        return lambda: dense_features(seg.tower, pixels, method)

    with torch.inference_mode():
        seconds = median_times(
            {"plain CLIP": lambda: model.visual(pixels)} | {name: forward(name) for name in methods_alone()}, runs
        )
    print(f"{tower}, {windows} windows, {torch.get_num_threads()} threads\n")
    print("| method | seconds | of plain CLIP |\n|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {value / seconds['plain CLIP']:.2f} |")


if __name__ == "__main__":
    typer.run(main)
