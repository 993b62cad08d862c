"""What SAM 3 costs: seconds and memory of a look and of its words, beside CLIP's. Random weights of the published size.

python benchmarks/sam3.py --words 1 10
"""

from __future__ import annotations

import argparse
import resource
import time
from types import SimpleNamespace

import torch
from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model

import sclip_plugin as sp

GFLOP = {"look": 6400, "word": 429}  # METHODS: 410 for the detector and 19 for the text, each word


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 10], help="how many words are asked at once")
    asked = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(sp.demo_model())
    processor = SimpleNamespace(image_processor=Sam3ImageProcessor(), tokenizer=tokenizer)
    with torch.device("meta"):
        model = Sam3Model(Sam3Config())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.normal_(std=0.02)
            else:
                value.zero_()
    parameters = sum(value.numel() for value in model.parameters())
    seg = sp.Segmenter(model, processor)
    picture = sp.draw_scene(seed=0, size=(1008, 1008)).picture
    start = time.perf_counter()
    encoded = seg.encode(picture)
    look = time.perf_counter() - start
    print(f"{parameters / 1e6:.0f} M parameters, {torch.get_num_threads()} threads")
    print(f"one look: {look:.1f} s, {GFLOP['look'] / look:.0f} GFLOP/s")
    for count in asked.words:
        words = [f"word {index}" for index in range(count)]
        start = time.perf_counter()
        encoded.segment(words)
        took = time.perf_counter() - start
        print(f"{count} words: {took:.1f} s, {took / count:.1f} a word; {took / look:.2f} of a look")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB, of which the weights {4 * parameters / 2**30:.1f}")


if __name__ == "__main__":
    main()
