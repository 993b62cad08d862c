"""Speed and memory of the package against plain CLIP's forward and against the published procedure.

    python benchmarks/speed.py                     # all of it; about half an hour on two cores
    python benchmarks/speed.py --tower ViT-B-16 --size 500x375 --labels 21,150       # what the bars are about

All paths of a row run in one process and in turns, on the same weights and the same picture; seconds are medians, and
ratios are of those. Peak memory is that of a process of its own. Writes Markdown to standard output, JSON to --out.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parent))

TOWERS = ("ViT-B-16", "ViT-B-32", "ViT-L-14")
SIZES = ("500x375", "1024x768", "2048x1024")
LABELS = (3, 21, 150, 847)
# Ratios that the project holds itself to, with ViT-B/16 on two cores at 500 x 375, and for how many labels. What is
# over its bar is printed in bold.
BARS = {
    "ours / tower": (1.15, (21, 150)),
    "ours / plain": (0.6, (21, 150)),
    "csa / forward": (1.05, (21, 150)),
    "resclip / csa": (2.2, (21, 150)),
    "PAMR / tower": (0.5, (21,)),
    "memory / plain": (1 / 3, (150,)),
    "text / plain": (1 / 12, (21, 150)),
    "warm ms": (50, (21, 150)),
}
COLUMNS = {
    "tower s": "seconds.tower",
    "ours s": "seconds.ours",
    "ours / tower": "ratios.ours / tower",
    "plain s": "seconds.plain",
    "ours / plain": "ratios.ours / plain",
    "csa / forward": "ratios.csa / forward",
    "resclip / csa": "ratios.resclip / csa",
    "PAMR / tower": "ratios.PAMR / tower",
    "ours MiB": "memory.ours",
    "plain MiB": "memory.plain",
    "memory / plain": "ratios.memory / plain",
    "equal pixels %": "equal pixels %",
}
# "PAMR / tower" is of one map a class; "refine" has one for each name, as a segmenter with the step pamr does.
# "label map" takes the pixels' scores as they are upsampled, so "stitch and upsample" is a part of it.
STAGES = ("read", "resize", "tower", "head", "stitch and upsample", "label map", "refine", "draw")


Paths = dict[str, Callable[[], Any]]


def paths_of(tower: str, size: tuple[int, int], labels: int) -> tuple[Paths, Paths]:
    """What is timed of a picture: the whole by several ways, and ours stage by stage."""
    import plain
    import torch
    import torch.nn.functional as F
    from scenario import STRIDE, WINDOW, scenario

    from sclip_plugin.dense import dense_features
    from sclip_plugin.device import budget
    from sclip_plugin.imaging.pictures import read_picture, to_tensor
    from sclip_plugin.imaging.refine import refine_pixels
    from sclip_plugin.imaging.resampling import normalise, resize
    from sclip_plugin.patching import applied
    from sclip_plugin.segment.windows import WindowPlan
    from sclip_plugin.steps import NameScores

    s = scenario(tower, size, labels)
    model, seg = s.model, s.segmenter
    vocabulary, text = seg.text_embeddings(s.classes)
    pixels = resize(to_tensor(s.picture), s.resized)
    plan = WindowPlan.of(s.resized, WINDOW, STRIDE, seg.tower.patch_size)
    cut = torch.stack([plan.cut(pixels, *box) for box in plan.boxes()])
    windows = normalise(cut, seg.encoder.mean, seg.encoder.std)
    at_once = budget(seg.device).tokens // (plan.patches[0] * plan.patches[1] + 1)
    features = dense_features(seg.tower, windows)
    logits = plan.empty_values(len(text), text).uniform_(-0.1, 0.1)
    stitched = plan.stitched(logits, size)
    jpeg = io.BytesIO()
    s.picture.save(jpeg, "JPEG")
    result = seg(s.picture, s.classes)
    colours = normalise(pixels, seg.encoder.mean, seg.encoder.std)[None]
    colours = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)[0]
    scores = NameScores(stitched, vocabulary, "cosine", seg.settings.logit_scale)
    one_map_a_class = plan.stitched(logits[..., :labels].contiguous(), size)
    arguments = s.plain_arguments()

    def in_place(forward):
        with applied(model, "csa"):
            forward(windows)

    def in_batches():
        return [dense_features(seg.tower, windows[i : i + at_once]) for i in range(0, len(windows), at_once)]

    whole = {
        "tower": lambda: model.visual(windows),
        "ours": lambda: seg(s.picture, s.classes),
        "csa in place": lambda: in_place(model.visual),
        "resclip": lambda: seg(s.picture, s.classes, method="resclip"),
    }
    if plain_memory(size, s.classes) < 0.8 * total_memory():
        whole["plain"] = lambda: plain.segment(model.visual, **arguments)
    stages = {
        "read": lambda: read_picture(io.BytesIO(jpeg.getvalue())),
        "resize": lambda: resize(to_tensor(s.picture), s.resized),
        "tower": in_batches,
        "head": lambda: F.normalize(features.flatten(2), dim=1).transpose(1, 2) @ text.T,
        "stitch and upsample": lambda: deque(plan.stitched(logits, size).tiles(), maxlen=0),
        "label map": lambda: deque(scores.best(size, scored=False), maxlen=0),
        "refine": lambda: refine_pixels(stitched.full().flatten(0, 1), colours),
        "PAMR": lambda: refine_pixels(one_map_a_class.full().flatten(0, 1), colours),
        "draw": lambda: result.overlay(),
    }
    return whole, stages


def plain_memory(size: tuple[int, int], classes: list[list[str]]) -> float:
    """Bytes that the plain procedure takes at least: its scores three times, or once for each class."""
    names = sum(map(len, classes))
    copies = 3 if names == len(classes) else 1 + len(classes)
    return 4.0 * copies * names * size[0] * size[1]


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(tower: str, size: str, labels: int, runs: int) -> dict[str, Any]:
    """One row of the table."""
    import numpy as np
    import torch
    from scenario import median_times

    width, height = map(int, size.split("x"))
    with torch.inference_mode():
        whole, stages = paths_of(tower, (height, width), labels)
        equal = None
        if "plain" in whole:
            ours = torch.from_numpy(whole["ours"]().label_map.astype(np.int64))
            equal = 100 * float((ours == whole["plain"]()).float().mean())
        seconds = median_times(whole, runs)
        in_stages = median_times(stages, runs)
    memory = {path: peak(path, tower, size, labels) for path in ("ours", "plain") if path == "ours" or "plain" in whole}
    ratios = {
        "ours / tower": seconds["ours"] / seconds["tower"],
        "csa / forward": seconds["csa in place"] / seconds["tower"],
        "resclip / csa": seconds["resclip"] / seconds["ours"],
        "PAMR / tower": in_stages["PAMR"] / seconds["tower"],
    }
    if "plain" in whole:
        ratios["ours / plain"] = seconds["ours"] / seconds["plain"]
        ratios["memory / plain"] = memory["ours"] / memory["plain"]
    return {
        "tower": tower, "size": size, "labels": labels, "seconds": seconds, "stages": in_stages, "memory": memory,
        "ratios": ratios, "equal pixels %": equal,
    }  # fmt: skip


def measure_text(tower: str, labels: int, runs: int) -> dict[str, Any]:
    """The text bank with 80 templates: cold, warm from the disk in a process that has it not in memory, and plainly."""
    import plain
    from scenario import median_times, scenario

    from sclip_plugin.text.bank import TextBank
    from sclip_plugin.text.labels import imagenet_templates, parse_labels
    from sclip_plugin.text.towers import find_text_tower

    s = scenario(tower, (64, 64), labels)
    names = parse_labels(s.classes).names
    some = names[:: -(-len(names) // 5)]  # plainly a name takes as long as another
    text_tower = find_text_tower(s.model, s.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        ours = TextBank(text_tower, folder).embed(names, imagenet_templates())
        warm = median_times({"warm": lambda: TextBank(text_tower, folder).embed(names, imagenet_templates())}, runs)
    paths = {
        "cold": lambda: TextBank(text_tower, cache_dir=False).embed(names, imagenet_templates()),
        "plain": lambda: plain.text_bank(s.model, s.tokenizer, some, imagenet_templates()),
    }
    seconds = median_times(paths, min(runs, 3)) | warm
    theirs = plain.text_bank(s.model, s.tokenizer, some, imagenet_templates())
    plain_all = seconds["plain"] * len(names) / len(some)
    return {
        "tower": tower, "labels": labels, "names": len(names), "names of plain": len(some),
        "cold": seconds["cold"], "warm": seconds["warm"], "plain": plain_all,
        "text / plain": seconds["cold"] / plain_all,
        "largest difference": float((ours[[names.index(name) for name in some]] - theirs).abs().max()),
    }  # fmt: skip


def peak(path: str, tower: str, size: str, labels: int) -> float:
    """MiB that a path takes above the loaded model, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", path, "--tower", tower, "--size", size, "--labels", str(labels)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.strip().splitlines()[-1])


def memory_of(path: str, tower: str, size: tuple[int, int], labels: int) -> float:
    import plain
    import torch
    from scenario import WINDOW, peak_memory, scenario

    s = scenario(tower, size, labels)
    arguments = s.plain_arguments()
    with torch.inference_mode():
        s.model.visual(torch.zeros(1, 3, *s.model.visual.image_size))  # what a first forward allocates once
    paths = {
        "ours": lambda: s.segmenter(s.picture, s.classes),
        "plain": lambda: plain.segment(s.model.visual, **arguments),
        "native": lambda: s.segmenter(s.picture, s.classes, resize_short_side=0, stride=WINDOW),
    }
    return peak_memory(paths[path])


def rows_of(towers: str, sizes: str, labels: str) -> Iterator[tuple[str, str, int]]:
    """The product of what was asked for; where nothing was, each of the three varied while the others stay."""
    if towers or sizes or labels:
        for tower in towers.split(",") if towers else TOWERS:
            for size in sizes.split(",") if sizes else SIZES:
                for count in map(int, labels.split(",")) if labels else LABELS:
                    yield tower, size, count
        return
    yield from ((TOWERS[0], SIZES[0], count) for count in LABELS)
    yield from ((TOWERS[0], size, count) for size in SIZES[1:] for count in LABELS[1:3])
    yield from ((tower, SIZES[0], count) for tower in TOWERS[1:] for count in LABELS[1:3])


def main(
    tower: Annotated[str, typer.Option(help="Architectures of open_clip, between commas.")] = "",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of pictures, between commas.")] = "",
    labels: Annotated[str, typer.Option(help="Numbers of labels, between commas.")] = "",
    runs: Annotated[int, typer.Option(help="Runs of each path, of which the median is taken.")] = 5,
    text: Annotated[bool, typer.Option(help="Measure the text bank, too.")] = True,
    huge: Annotated[bool, typer.Option(help="Measure the memory for a picture of 8000 x 6000, too.")] = True,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("speed.json"),
    memory_of_path: Annotated[str, typer.Option("--memory-of", hidden=True)] = "",
) -> None:
    if memory_of_path:
        width, height = map(int, size.split("x"))
        print(memory_of(memory_of_path, tower, (height, width), int(labels)))
        return
    from scenario import machine

    rows = list(rows_of(tower, size, labels))
    report: dict[str, Any] = {"machine": machine(), "rows": [], "text": [], "huge": {}}

    def keep() -> None:
        out.write_text(json.dumps(report, indent=1))

    for row in rows:
        print("measuring", *row, file=sys.stderr)
        report["rows"].append(measure(*row, runs))
        keep()
    for text_tower, count in dict.fromkeys((row[0], row[2]) for row in rows) if text else ():
        print("measuring text", text_tower, count, file=sys.stderr)
        report["text"].append(measure_text(text_tower, count, runs))
        keep()
    for path in ("ours", "native") if huge else ():
        report["huge"][path] = peak(path, rows[0][0], "8000x6000", 150)
        keep()
    show(report)


def show(report: dict[str, Any]) -> None:
    from scenario import table

    print(f"{report['machine']}\n")
    rows = report["rows"]
    table(["tower", "size", "labels", *COLUMNS], [
        [row["tower"], row["size"], row["labels"], *(cell(row, k, found(row, path)) for k, path in COLUMNS.items())]
        for row in rows
    ])  # fmt: skip
    print("Milliseconds of each stage:\n")
    table(["tower", "size", "labels", *STAGES], [
        [row["tower"], row["size"], row["labels"], *(f"{1e3 * row['stages'][stage]:.1f}" for stage in STAGES)]
        for row in rows
    ])  # fmt: skip
    if report["text"]:
        print("Text bank, 80 templates; plain extrapolated from five names, which are those compared:\n")
        table(["tower", "names", "plain s", "cold s", "text / plain", "warm ms", "largest difference"], [
            [row["tower"], row["names"], f"{row['plain']:.1f}", f"{row['cold']:.2f}",
             cell(row, "text / plain", row["text / plain"]), cell(row, "warm ms", 1e3 * row["warm"]),
             f"{row['largest difference']:.0e}"]
            for row in report["text"]
        ])  # fmt: skip
    for path, mebibytes in report["huge"].items():
        print(f"8000 x 6000, 150 labels, {path}: {mebibytes:.0f} MiB above the model")


def found(row: dict[str, Any], path: str) -> float | None:
    value: Any = row
    for key in path.split(".", 1):
        value = value.get(key) if value is not None else None
    return value


def cell(row: dict[str, Any], name: str, value: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:.0f}" if name.endswith(("MiB", "ms")) else f"{value:.3f}"
    bar, of_labels = BARS.get(name, (0, ()))
    held = row["tower"] == TOWERS[0] and row.get("size", SIZES[0]) == SIZES[0] and row["labels"] in of_labels
    return f"**{shown}**" if held and value > bar else shown


if __name__ == "__main__":
    typer.run(main)
