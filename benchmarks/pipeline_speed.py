"""Does the transformers pipeline run at the segmenter's own speed? Pictures of a folder, streamed through both.

    python benchmarks/pipeline_speed.py                    # a CLIP ViT-B/16 with random weights: no download
    python benchmarks/pipeline_speed.py --model demo --pictures FOLDER --batch-size 4

Runs alternate in one process, so that whatever else the machine does falls on all of them; a figure is the median over
rounds of the ratio within a round. On a machine that others use, look at the ratio of processor time, with one thread
(``OMP_NUM_THREADS=1``) and no workers. Two results are compared, each with ``Segmenter.stream`` asked for the same:

- ``label maps``: ``output="semantic"``;
- ``masks``: a mask and a score for every label found, as the pipeline gives them where nothing else is asked for.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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
        pictures = paths if arguments.num_workers == 0 else _Paths(paths)

        def pipeline_gives(output: str) -> list:
            inputs = (path for path in paths) if pictures is paths else pictures
            many = {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
            return list(pipe(inputs, candidate_labels=LABELS, output=output, **many))

        ways = {
            ("label maps", "segmenter"): lambda: [r.label_map for r in pipe.segmenter.stream(paths, LABELS)],
            ("label maps", "pipeline"): lambda: pipeline_gives("semantic"),
            ("masks", "segmenter"): lambda: [_masks(r) for r in pipe.segmenter.stream(paths, LABELS)],
            ("masks", "pipeline"): lambda: pipeline_gives("masks"),
        }
        for run in ways.values():  # the text bank, and whatever else happens once
            run()
        wall: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        processor: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                start = time.perf_counter(), time.process_time()
                run()
                wall[way].append(time.perf_counter() - start[0])
                processor[way].append(time.process_time() - start[1])

    print(f"{len(paths)} pictures, {arguments.rounds} rounds, batch size {arguments.batch_size}, {arguments.device}")
    for clock, seconds in {"wall": wall, "processor": processor}.items():
        for (result, by), times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, seconds[result, "segmenter"], strict=True))
            each = 1e3 * statistics.median(times) / len(paths)
            print(f"{clock:9}  {result:10}  {by:9} {each:8.1f} ms a picture   {ratio:.3f}")


def _masks(result) -> list:
    scores = result.mean_scores()
    return [(label, score, result.mask(label)) for label, score in scores.items()]


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
