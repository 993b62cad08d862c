"""Edges: refinement (PAMR) against map correction by superpixels (SLIC), on the demo's scenes at twice their size.

    python benchmarks/edges.py [--scenes 100]

mIoU in per cent, mean over scenes with the scene's own labels offered; connected regions of the label map, mean over
scenes; milliseconds a picture beside the tower's own.
"""

import argparse
import statistics
import time

import sclip_plugin as sp
from sclip_plugin.demo import HELD_OUT_FIRST_SEED
from sclip_plugin.evaluation.metric import IoUTotals
from sclip_plugin.imaging.regions import components

WAYS = {
    "as it is": {},
    "PAMR": {"steps": "pamr"},
    "refine=True (pamr, specks)": {"refine": True},
    "pamr(dilations=(1, 2, 4, 8, 12, 24))": {"steps": "pamr(dilations=(1, 2, 4, 8, 12, 24))"},
    "pamr(dilations=(1, 2, 4, 8, 12, 24)), specks": {"steps": "pamr(dilations=(1, 2, 4, 8, 12, 24)), specks"},
    "slic(segments=100)": {"steps": "vote", "masks": "slic(segments=100)"},
    "slic(segments=200)": {"steps": "vote", "masks": "slic"},
    "slic(segments=400)": {"steps": "vote", "masks": "slic(segments=400)"},
    "slic(segments=800)": {"steps": "vote", "masks": "slic(segments=800)"},
    "slic(segments=400, compactness=30.0)": {"steps": "vote", "masks": "slic(segments=400, compactness=30.0)"},
    "PAMR, then slic(segments=400)": {"steps": "pamr, vote", "masks": "slic(segments=400)"},
    "PAMR, then slic(segments=800)": {"steps": "pamr, vote", "masks": "slic(segments=800)"},
}


def regions(label_map):
    """The number of connected regions of a label map."""
    return int(components(label_map).max()) + 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    count = parser.parse_args().scenes
    segmenter = sp.Segmenter.from_pretrained("demo", presence=None)
    scenes = [sp.draw_scene(HELD_OUT_FIRST_SEED + index, scale=2) for index in range(count)]
    found = {way: [] for way in WAYS}
    spent = {way: [] for way in WAYS}
    pieces = {way: [] for way in WAYS}
    for scene in scenes:
        encoded = segmenter.encode(scene.picture)
        encoded.segment(list(scene.labels))  # embeds the words, which would count for the first way
        for way, settings in WAYS.items():
            start = time.perf_counter()
            result = encoded.segment(list(scene.labels), **settings)
            spent[way].append(time.perf_counter() - start)
            totals = IoUTotals(len(scene.labels))
            totals.add(result.label_map, scene.label_map)
            found[way].append(totals.miou)
            pieces[way].append(regions(result.label_map))
    print("| | mIoU | regions | ms a picture |\n|---|---|---|---|")
    for way in WAYS:
        miou, number = 100 * statistics.mean(found[way]), statistics.mean(pieces[way])
        print(f"| {way} | {miou:.1f} | {number:.0f} | {1000 * statistics.median(spent[way]):.0f} |")
    print(f"| truth | 100 | {statistics.mean(regions(scene.label_map) for scene in scenes):.0f} | |")
