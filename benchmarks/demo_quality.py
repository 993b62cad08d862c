"""What the demo's CLIP can do: mIoU of every method on held-out scenes, and a sheet of pictures to look at.

    python benchmarks/demo_quality.py --scenes 200 --sheet sheet.png
    python benchmarks/demo_quality.py --scenes 200 --skip 1000    # another set
    python benchmarks/demo_quality.py --scenes 200 --scale 2 --methods csa refined

`sclip eval demo` offers all 50 classes; this also offers the labels of each scene alone, as `sclip demo` does.
"""

import argparse

import numpy as np
import torch
from PIL import Image, ImageDraw

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, GROUNDS, HELD_OUT_FIRST_SEED, demo_model

METHODS = ("vanilla", "csa", "clearclip", "naclip", "kk", "maskclip")
ROWS = {name: {"method": name} for name in METHODS} | {
    "pamr": {"method": "csa", "refine": "pamr"},
    "refined": {"method": "csa", "refine": True},
}
SIZE = (216, 144)


def measure(segmenter, scenes, method, **settings):
    """Confusion counts (50, 50) with the labels present offered, and with all classes offered."""
    counts = {offered: np.zeros((len(CLASSES), len(CLASSES))) for offered in ("present", "all")}
    for scene in scenes:
        present = np.array([CLASSES.index(name) for name in scene.labels])
        truth = present[scene.label_map]
        encoded = segmenter.encode(scene.picture, method=method, dtype=torch.float32)
        maps = {
            "present": present[encoded.segment(list(scene.labels), **settings).label_map],
            "all": encoded.segment(list(CLASSES), **settings).label_map,
        }
        for offered, found in maps.items():
            pairs = truth * len(CLASSES) + found
            counts[offered] += np.bincount(pairs.ravel(), minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)
    return counts


def mean_iou(counts, classes):
    """Mean IoU in per cent over those of `classes` that occur."""
    hit, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return 100 * np.mean([hit[k] / union[k] for k in map(CLASSES.index, classes) if counts[k].sum()])


def sheet(segmenter, scenes, methods=("csa", "vanilla")):
    """Rows of picture, truth and results, in colours of the classes; a PIL picture."""
    colours = np.random.default_rng(1).integers(30, 255, (len(CLASSES), 3))
    width, height = SIZE
    page = Image.new("RGB", ((width + 8) * (2 + len(methods)) + 110, (height + 18) * len(scenes)), "white")
    draw = ImageDraw.Draw(page)
    for row, scene in enumerate(scenes):
        top = row * (height + 18)
        maps = {"truth": scene.label_map} | {
            method: np.asarray(segmenter(scene.picture, list(scene.labels), method=method).label_map)
            for method in methods
        }
        palette = colours[[CLASSES.index(name) for name in scene.labels]]
        page.paste(scene.picture, (0, top + 14))
        for column, (title, label_map) in enumerate(maps.items(), 1):
            mixed = 0.35 * np.asarray(scene.picture) + 0.65 * palette[label_map]
            page.paste(Image.fromarray(mixed.astype(np.uint8)), (column * (width + 8), top + 14))
            draw.text((column * (width + 8), top + 1), title, fill="black")
        for line, (name, colour) in enumerate(zip(scene.labels, palette, strict=True)):
            left = (width + 8) * (1 + len(maps))
            draw.rectangle((left, top + 14 + 14 * line, left + 10, top + 24 + 14 * line), fill=tuple(map(int, colour)))
            draw.text((left + 15, top + 13 + 14 * line), name, fill="black")
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder (default: the shipped one)")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many held-out scenes in front")
    parser.add_argument("--scale", type=int, default=1, help="the scenes at so many times their size; sclip demo: 2")
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=list(ROWS), help="the rows (default: all)")
    parser.add_argument("--sheet", help="write a sheet of the first six scenes here")
    options = parser.parse_args()
    segmenter = sp.Segmenter.from_pretrained(options.model or demo_model(), presence=None)
    seeds = range(HELD_OUT_FIRST_SEED + options.skip, HELD_OUT_FIRST_SEED + options.skip + options.scenes)
    drawn = [sp.draw_scene(seed, SIZE, options.scale) for seed in seeds]
    if options.sheet:
        sheet(segmenter, drawn[:6]).save(options.sheet)
    titles = ("method", "labels present", "things", "grounds", "all 50 classes", "things", "grounds")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    things = [name for name in CLASSES if name not in GROUNDS]
    for name in options.methods:
        found = measure(segmenter, drawn, **ROWS[name])
        columns = [mean_iou(found[offered], part) for offered in found for part in (CLASSES, things, GROUNDS)]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in columns) + " |", flush=True)
