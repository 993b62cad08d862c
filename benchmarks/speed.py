"""Speed of the package against plain CLIP's forward and against the published procedure, in one table.

    python benchmarks/speed.py                                  # B/16, 500 x 375, 21 and 150 labels; a few minutes
    python benchmarks/speed.py --tower ViT-L-14 --size 1024x768 --labels 3,847

Random weights (time does not depend on them), all paths in one process and in turns, median of several runs; peak
memory of each path in a process of its own. Writes Markdown to standard output and JSON to --out.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))


def setup(tower: str, size: tuple[int, int], labels: int, seed: int = 0):
    """A random model, a smooth random picture, and labels; 21 of them are VOC's, whose vocabulary has 56 names."""
    import numpy as np
    import open_clip
    import torch
    from PIL import Image

    import sclip_plugin as sp
    from sclip_plugin.evaluation.benchmarks import load_benchmark

    torch.manual_seed(seed)
    model = open_clip.create_model(tower, pretrained=None).eval().requires_grad_(False)
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    known = {21: "voc21", 150: "ade20k", 171: "coco_stuff", 19: "cityscapes", 60: "context60"}
    if labels in known:
        classes = [list(names) for names in load_benchmark(known[labels]).classes]
    else:
        words = [n for b in ("coco_stuff", "ade20k") for names in load_benchmark(b).classes for n in names]
        classes = [[f"{words[i % len(words)]} {i // len(words)}".removesuffix(" 0")] for i in range(labels * 2)]
        classes = list(dict.fromkeys(map(tuple, classes)))[:labels]
    seg = sp.Segmenter(
        model, open_clip.get_tokenizer(tower), cache_dir=False, templates="plain",
        resize_short_side=336, window=224, stride=112,
    )  # fmt: skip
    return model, picture, [list(c) for c in classes], seg


def median_times(paths: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds of each path: once to warm up, then all of them in turns."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for run in range(runs + 1):
        for name, path in paths.items():
            start = time.perf_counter()
            path()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def image_paths(tower: str, size: tuple[int, int], labels: int) -> tuple[dict[str, Callable[[], object]], float]:
    """Everything that is timed of a picture, by name; and the share of pixels in which ours equals the plain result."""
    import io

    import numpy as np
    import plain
    import torch
    import torch.nn.functional as F

    from sclip_plugin.dense import dense_features
    from sclip_plugin.patching import applied
    from sclip_plugin.pictures import normalise, read_picture, resize, target_size, to_tensor
    from sclip_plugin.refine import pamr
    from sclip_plugin.segmentation import decide
    from sclip_plugin.windows import WindowPlan

    model, picture, classes, seg = setup(tower, size, labels)
    vocabulary, text = seg.text_embeddings(classes)
    array = np.asarray(picture)
    resized_size = target_size(*size, 336)
    pixels = resize(to_tensor(picture), resized_size)
    plan = WindowPlan.of(resized_size, 224, 112, seg.tower.patch_size)
    batch = normalise(torch.stack([plan.cut(pixels, *box) for box in plan.boxes()]), seg._mean, seg._std)
    features = dense_features(seg.tower, batch)
    logits = plan.empty_logits(len(text), text).uniform_(-0.1, 0.1)
    stitched = plan.stitched(logits, size)
    decision = seg.settings.decision()
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG")
    guide = torch.randn(1, 3, *size)
    class_maps = torch.randn(1, len(classes), *size)
    result = seg(picture, classes)

    def plain_labels():
        return plain.segment(
            model.visual, array, text, size=resized_size, window=224, stride=112, logit_scale=40.0,
            mean=seg._mean, std=seg._std, class_of_name=vocabulary.class_of_name,
        )  # fmt: skip

    def in_batches(forward):
        return lambda: [forward(batch[i : i + 16]) for i in range(0, len(batch), 16)]

    def patched():
        with applied(model, "csa"):
            in_batches(model.visual)()

    paths = {
        "tower (plain CLIP forward of the windows)": in_batches(model.visual),
        "ours: decoded pixels to label map": lambda: seg(picture, classes),
        "plain procedure": plain_labels,
        "csa in place, same windows": patched,
        "resclip with SFR": lambda: seg(picture, classes, method="resclip"),
        "stage: read JPEG": lambda: read_picture(io.BytesIO(jpeg.getvalue())),
        "stage: resize": lambda: resize(to_tensor(picture), resized_size),
        "stage: dense features": in_batches(lambda x: dense_features(seg.tower, x)),
        "stage: cosines": lambda: F.normalize(features.flatten(2), dim=1).transpose(1, 2) @ text.T,
        "stage: stitch, upsample, argmax": lambda: decide(stitched, vocabulary, decision),
        "stage: PAMR, 10 steps, classes": lambda: pamr(class_maps, guide),
        "stage: overlay": lambda: result.overlay(),
    }
    inference = torch.inference_mode()
    inference.__enter__()
    same = float((torch.from_numpy(result.label_map.astype(np.int64)) == plain_labels()).float().mean())
    return paths, same


def text_paths(tower: str, labels: int, folder: str) -> tuple[dict[str, Callable[[], object]], float]:
    """The text bank with 80 templates: cold, warm from disk, and plainly for a tenth of the names (times ten)."""
    import open_clip
    import plain

    from sclip_plugin.text import TextBank, imagenet_templates, parse_labels
    from sclip_plugin.text_towers import find_text_tower

    model, _, classes, _ = setup(tower, (64, 64), labels)
    tokenizer = open_clip.get_tokenizer(tower)
    names = parse_labels(classes).names
    some = names[: max(1, len(names) // 10)]
    text_tower = find_text_tower(model, tokenizer)
    cold = TextBank(text_tower, cache_dir=False)
    warm = TextBank(text_tower, folder)
    ours = warm.embed(names, imagenet_templates())
    theirs = plain.text_bank(model, tokenizer, some, imagenet_templates())

    def from_disk():
        warm._memory.clear()
        warm._fingerprint = None
        warm.embed(names, imagenet_templates())

    def computed():
        cold._memory.clear()
        cold.embed(names, imagenet_templates())

    paths = {
        "text bank, cold": computed,
        "text bank, warm from disk": from_disk,
        f"text bank, plain ({len(some)} of {len(names)} names)": lambda: plain.text_bank(
            model, tokenizer, some, imagenet_templates()
        ),
    }
    return paths, float((ours[: len(some)] - theirs).abs().max())


def peak_memory(path: str, tower: str, size: str, labels: int) -> float:
    """MiB that a path takes above the loaded model, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", path, "--tower", tower, "--size", size, "--labels", str(labels)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.strip().splitlines()[-1])


def memory_of(path: str, tower: str, size: tuple[int, int], labels: int) -> None:
    import gc

    import numpy as np
    import plain
    import torch

    from sclip_plugin.pictures import target_size

    model, picture, classes, seg = setup(tower, size, labels)
    vocabulary, text = seg.text_embeddings(classes)
    with torch.inference_mode():
        model.visual(torch.zeros(1, 3, *model.visual.image_size))  # what a first forward allocates once
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: from here on the peak is counted anew
    before = resident("VmRSS")
    if path == "plain":
        plain.segment(
            model.visual, np.asarray(picture), text, size=target_size(*size, 336), window=224, stride=112,
            logit_scale=40.0, mean=seg._mean, std=seg._std, class_of_name=vocabulary.class_of_name,
        )  # fmt: skip
    elif path == "native":
        seg(picture, classes, resize_short_side=0, stride=224)
    else:
        seg(picture, classes)
    print((resident("VmHWM") - before) / 1024)


def resident(key: str) -> int:
    """KiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(
    tower: Annotated[str, typer.Option(help="An architecture of open_clip.")] = "ViT-B-16",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the picture.")] = "500x375",
    labels: Annotated[str, typer.Option(help="Numbers of labels, between commas.")] = "21,150",
    runs: Annotated[int, typer.Option(help="Runs of each path, of which the median is taken.")] = 7,
    text: Annotated[bool, typer.Option(help="Measure the text bank, too.")] = True,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("speed.json"),
    memory_of_path: Annotated[str, typer.Option("--memory-of", hidden=True)] = "",
) -> None:
    width, height = map(int, size.split("x"))
    if memory_of_path:
        return memory_of(memory_of_path, tower, (height, width), int(labels))
    import torch

    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    report: dict = {"machine": machine, "tower": tower, "size": size, "labels": {}}
    print(f"{tower}, {size}, {machine}\n")
    for count in map(int, labels.split(",")):
        paths, same = image_paths(tower, (height, width), count)
        seconds = median_times(paths, runs)
        memory = {path: peak_memory(path, tower, size, count) for path in ("ours", "plain")}
        entry = {"seconds": seconds, "equal_pixels": same, "memory_MiB": memory}
        if text:
            with tempfile.TemporaryDirectory() as folder:
                text_bank, difference = text_paths(tower, count, folder)
                entry["text_seconds"] = median_times(text_bank, 3)
                entry["text_difference"] = difference
        report["labels"][count] = entry
        _print(count, entry)
    out.write_text(json.dumps(report, indent=1))


def _print(labels: int, entry: dict) -> None:
    seconds = entry["seconds"]
    reference = seconds["tower (plain CLIP forward of the windows)"]
    print(f"| {labels} labels | seconds | of the tower |\n|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {value / reference:.3f} |")
    for name, value in entry.get("text_seconds", {}).items():
        print(f"| {name} | {value:.3f} | |")
    ours, plain = entry["memory_MiB"]["ours"], entry["memory_MiB"]["plain"]
    print(f"\npixels equal to the plain procedure's: {100 * entry['equal_pixels']:.3f} %")
    print(f"peak memory above the model: {ours:.0f} MiB, plain {plain:.0f} MiB, ratio {ours / plain:.2f}\n")


if __name__ == "__main__":
    typer.run(main)
