"""What regions do on the demo's scenes: mIoU and seconds a picture of PAMR, of map correction, and of `corrclip`.

    python benchmarks/regions_demo.py --scenes 60
    python benchmarks/regions_demo.py --scenes 20 --masks "mobile_sam(weights='mobile_sam.pt', points=16)"

All 50 classes are offered for every pixel. Regions are SLIC's superpixels; the outside model of `corrclip` is the demo
model's own image tower, since nothing else is at hand offline.
"""

import argparse
import time

import numpy as np

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, HELD_OUT_FIRST_SEED
from sclip_plugin.evaluation.metric import IoUTotals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--masks", help="another source of masks, beside superpixels")
    given = parser.parse_args()
    seg = sp.Segmenter.from_pretrained("demo", presence=None)
    scenes = [sp.draw_scene(HELD_OUT_FIRST_SEED + i, (192, 144)) for i in range(given.scenes)]
    cases = {"csa": {"method": "csa"}, "csa, PAMR": {"method": "csa", "refine": "pamr"}}
    for count in (100, 200, 400):
        cases[f"csa, vote in {count} superpixels"] = {"steps": "vote", "masks": f"slic(segments={count})"}
    cases["csa, stitched"] = {"method": "csa", "stitched": True}
    regions = {"method": "corrclip", "guide": seg.model.vision_model, "masks": "slic(segments=100)"}
    cases["corrclip, 100 superpixels"] = {**regions, "steps": "vote"}
    cases["corrclip, no vote"] = regions
    cases["textregion, 100 superpixels"] = {"method": "textregion", "steps": "vote", "masks": "slic(segments=100)"}
    if given.masks:
        cases["csa, vote in those masks"] = {"steps": "vote", "masks": given.masks}
        cases["corrclip, those masks"] = {**regions, "steps": "vote", "masks": given.masks}
        cases["textregion, those masks"] = {"method": "textregion", "steps": "vote", "masks": given.masks}
    print("| | mIoU | seconds a picture |\n|---|---:|---:|")
    for name, settings in cases.items():
        totals, start = IoUTotals(len(CLASSES)), time.process_time()
        for scene in scenes:
            result = seg(scene.picture, list(CLASSES), **settings)
            truth = np.array([CLASSES.index(label) for label in scene.labels])[scene.label_map]
            totals.add(result.label_map, truth)
        seconds = (time.process_time() - start) / len(scenes)
        print(f"| {name} | {100 * totals.miou:.1f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
