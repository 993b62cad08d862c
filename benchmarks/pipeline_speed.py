"""Does the transformers pipeline run at the segmenter's own speed? Pictures of a folder, streamed through both.

    python benchmarks/pipeline_speed.py                    # a CLIP ViT-B/16 with random weights: no download
    python benchmarks/pipeline_speed.py --model demo --pictures FOLDER --batch-size 4

Runs of the two alternate in one process, so that whatever else the machine does falls on both; a figure is the median
over rounds of the ratio within a round. On a machine that others use, look at the ratio of processor time, with one
thread (``OMP_NUM_THREADS=1``) and no workers. Both ways are compared to ``Segmenter.stream`` asked for label maps only:

- ``semantic``: the pipeline with ``output="semantic"``, which gives the same label maps;
- ``masks``: the pipeline as it comes, which also makes a mask and a score for every label found.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

LABELS = ["cat", "remote control", ["sofa", "couch"], "grass", "road", "person", "potted plant", "sky"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a hub id, a folder, or demo; a random ViT-B/16 where it is not given")
    parser.add_argument("--pictures", type=Path, help="a folder; pictures of noise, 375 x 500, where it is not given")
    parser.add_argument("--count", type=int, default=8, help="pictures in a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1, help="of the pipeline, in pictures")
    parser.add_argument("--num-workers", type=int, default=0, help="of the pipeline")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    from transformers import pipeline

    import sclip_plugin  # noqa: F401

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.pictures or _noise(Path(scratch) / "pictures", arguments.count)
        paths = sorted(str(path) for path in folder.iterdir())[: arguments.count]
        model = _random_clip(Path(scratch) / "model") if arguments.model is None else _folder_of(arguments.model)
        pipe = pipeline(
            "zero-shot-segmentation", model=model, device=arguments.device, hypothesis_template="a photo of a {}."
        )
        ways = {
            "segmenter": lambda: [result.label_map for result in pipe.segmenter.stream(paths, LABELS)],
            "semantic": lambda: list(_streamed(pipe, paths, arguments, output="semantic")),
            "masks": lambda: list(_streamed(pipe, paths, arguments, output="masks")),
        }
        for run in ways.values():  # the text bank, and whatever else happens once
            run()
        wall: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, run in ways.items():
                start = time.perf_counter(), time.process_time()
                run()
                wall[name].append(time.perf_counter() - start[0])
                processor[name].append(time.process_time() - start[1])

    print(f"{len(paths)} pictures, {arguments.rounds} rounds, batch size {arguments.batch_size}, {arguments.device}")
    for clock, seconds in {"wall": wall, "processor": processor}.items():
        for name, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, seconds["segmenter"], strict=True))
            each = 1e3 * statistics.median(times) / len(paths)
            print(f"{clock:9}  {name:9} {each:8.1f} ms a picture   {ratio:.3f} of the segmenter's")


def _streamed(pipe, paths: list[str], arguments: argparse.Namespace, **parameters) -> Iterator:
    pictures = (path for path in paths)
    if arguments.num_workers:  # a generator can feed one worker only; a data set, any number
        pictures = _Paths(paths)
    return pipe(
        pictures,
        candidate_labels=LABELS,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        **parameters,
    )


class _Paths(torch.utils.data.Dataset):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        return self.paths[index]


def _folder_of(model: str) -> str:
    from sclip_plugin import demo_model

    return str(demo_model()) if model == "demo" else model


def _random_clip(folder: Path) -> str:
    """CLIP ViT-B/16 with random weights, and a tokenizer that knows single bytes."""
    import json

    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder.mkdir(parents=True)
    config = CLIPConfig(vision_config={"patch_size": 16}, text_config={"max_position_embeddings": 128})
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    start, end = "<|startoftext|>", "<|endoftext|>"
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    vocabulary = {token: index for index, token in enumerate(tokens)} | {start: 49406, end: 49407}
    special = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return str(folder)


def _noise(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{index:03}.jpg")
    return folder


if __name__ == "__main__":
    main()
