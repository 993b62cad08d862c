"""What a second question about an encoded picture costs, beside the first, and how many pixels half precision changes.

    python benchmarks/encoding.py [--tower ViT-B-16] [--size 500x375] [--labels 21]

Random weights; medians, ratios in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import open_clip
import torch
from PIL import Image

import sclip_plugin as sp


def seconds(action, times: int = 5) -> float:
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", default="ViT-B-16")
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--labels", type=int, default=21)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    torch.manual_seed(0)
    model, tokenizer = open_clip.create_model(options.tower), open_clip.get_tokenizer(options.tower)
    seg = sp.Segmenter(model, tokenizer, cache_dir=False, templates="plain")
    noise = np.random.default_rng(0).integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height))
    labels = [f"thing number {i}" for i in range(options.labels)]
    seg(picture, labels)
    first = seconds(lambda: seg(picture, labels))
    encode = seconds(lambda: seg.encode(picture))
    encoded, exact = seg.encode(picture), seg.encode(picture, dtype=torch.float32)
    second = seconds(lambda: encoded.segment(labels), 15)
    called = seg(picture, labels).label_map
    print(f"{options.tower}, {options.size}, {options.labels} labels: a call {first:.3f} s, encode {encode:.3f} s, "
          f"a second question {second:.3f} s ({100 * second / first:.1f} % of a call)")  # fmt: skip
    print(f"kept: {encoded.vectors.nbytes / 1e6:.2f} MB; pixels that differ from a call: "
          f"{100 * (encoded.segment(labels).label_map != called).mean():.3f} % in half precision, "
          f"{100 * (exact.segment(labels).label_map != called).mean():.3f} % in single")  # fmt: skip


if __name__ == "__main__":
    main()
