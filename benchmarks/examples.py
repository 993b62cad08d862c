"""What a few annotated pictures are worth: mIoU on held-out scenes, by words alone and tuned by 1, 5 and 10 examples.

    python benchmarks/examples.py                        # 5 draws of examples, 200 scenes: the table in docs/tuning.md
    python benchmarks/examples.py --draws 2 --scenes 40  # a short run
    python benchmarks/examples.py --first 400 --pool 9000  # other scenes, other examples

`clean`: all 50 names are known. `hard`: the same in bad pictures. `renamed`: 10 things have nonsense names. `merged`:
things form 6 groups beside 8 grounds. `background`: 12 named things, all else is background.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from scenario import table

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, GROUNDS, HELD_OUT_FIRST_SEED, THINGS
from sclip_plugin.memory.examples import Cells
from sclip_plugin.segment.tuning import tuned_by
from sclip_plugin.text.labels import parse_labels

SIZE, EVERY, POOL, DRAWN = (216, 144), 6, 60, (1, 5, 10)
GROUPS = {
    "animal": THINGS[:20], "plant": THINGS[20:24], "food": THINGS[24:30], "vehicle": THINGS[30:34],
    "building": THINGS[34:36], "object": THINGS[36:],
}  # fmt: skip
NONSENSE = ("zorbl", "kreth", "vumpa", "quilx", "drask", "yebbo", "flimt", "grosh", "pwint", "snarv")


def bad(picture, seed):
    """Blurred, a third greyer, dark and bluish, noisy."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2))).astype(np.float32)
    pixels = pixels + (pixels.mean(axis=2, keepdims=True) - pixels) / 3
    pixels = pixels * np.array([0.55, 0.65, 0.85], np.float32)
    pixels += np.random.default_rng(seed).normal(0, 12, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def conditions(seed):
    """Of each: its labels, and the label of each of the 50 classes. The seed says which things `renamed` renames and
    `background` names."""
    mixed = [str(name) for name in np.random.default_rng(seed).permutation(THINGS)]
    renamed, named = dict(zip(mixed, NONSENSE, strict=False)), mixed[-12:]
    merged = {thing: group for group, things in GROUPS.items() for thing in things}
    maps = {
        "clean": {name: name for name in CLASSES},
        "hard": {name: name for name in CLASSES},
        "renamed": {name: renamed.get(name, name) for name in CLASSES},
        "merged": {name: merged.get(name, name) for name in CLASSES},
        "background": {name: name if name in named else "background" for name in CLASSES},
    }
    order = {"merged": [*GROUPS, *GROUNDS], "background": ["background", *named]}
    return {name: (order.get(name) or list(dict.fromkeys(of.values())), of) for name, of in maps.items()}


def on_grid(look, words):
    """The label map from features that are averaged on the patch grid, as tuning fits them; scores are resized."""
    vocabulary, rows = look.segmenter.text_embeddings(words)
    cosines = torch.einsum("dhw,kd->khw", F.normalize(look.features(), dim=0), rows)
    cosines = cosines + cosines.new_tensor(vocabulary.constants_of_names())[:, None, None]
    best = F.interpolate(cosines[None], look.size, mode="bilinear")[0].argmax(dim=0)
    return np.array(vocabulary.class_of_name)[best.numpy()]


def scored(encoded, truths, labels, tuned, grid=False):
    """mIoU in per cent over the classes that occur."""
    counts = np.zeros((3, len(labels)))
    for look, truth in zip(encoded, truths, strict=True):
        label_map = on_grid(look, tuned) if grid else look.segment(tuned).label_map
        part = slice(EVERY // 2 if grid else 0, None, EVERY)
        found, there = label_map[part, part], truth[part, part]
        for row, part in enumerate((found[found == there], found, there)):
            counts[row] += np.bincount(part.ravel(), minlength=len(labels))
    agree, predicted, labelled = counts[:, counts[2] > 0]
    return 100 * float(np.mean(agree / (predicted + labelled - agree)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="first held-out scene")
    parser.add_argument("--pool", type=int, default=5000, help="first scene of the pool of 60 examples")
    parser.add_argument("--things", type=int, default=0, help="seed of the things that are renamed, or named")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--grid", action="store_true", help="answer on the patch grid, without windows and presence")
    parser.add_argument("--conditions", default="clean,hard,renamed,merged,background")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seg = sp.Segmenter.from_pretrained("demo", device="cpu")
    position = {name: index for index, name in enumerate(CLASSES)}
    seeds = [HELD_OUT_FIRST_SEED + asked.first + i for i in range(asked.scenes)]
    pool = [HELD_OUT_FIRST_SEED + asked.pool + i for i in range(POOL)]
    scenes = {seed: sp.draw_scene(seed, SIZE) for seed in [*seeds, *pool]}
    of_class = {s: np.array([position[name] for name in scene.labels])[scene.label_map] for s, scene in scenes.items()}
    rows, fits, lowest = [], [], 0.0
    looks = {}
    for name in asked.conditions.split(","):
        labels, of = conditions(asked.things)[name]
        if (name == "hard") not in looks:
            shown = {s: bad(scene.picture, s) if name == "hard" else scene.picture for s, scene in scenes.items()}
            looks[name == "hard"] = dict(zip(shown, seg.encode(list(shown.values()), dtype=torch.float32), strict=True))
        encoded = looks[name == "hard"]
        index = np.array([labels.index(of[known]) for known in CLASSES])
        truths = [index[of_class[seed]] for seed in seeds]
        cells = [Cells.of(str(s), encoded[s].features(), index[of_class[s]], len(labels)) for s in pool]
        tests = [encoded[seed] for seed in seeds]
        plain = scored(tests, truths, labels, parse_labels(labels), asked.grid)
        row = [name, f"{plain:.1f}"]
        for count in DRAWN:
            found, chosen = [], []
            for draw in range(asked.draws):
                drawn = np.random.default_rng(100 + draw).permutation(POOL)[:count]
                start = time.perf_counter()
                tuned = tuned_by(
                    seg.chain, seg.settings, parse_labels(labels), Cells.together([cells[i] for i in drawn])
                )
                fits.append((count, time.perf_counter() - start))
                found.append(scored(tests, truths, labels, tuned, asked.grid))
                chosen.append(tuned.report["chosen"])
            gains = np.array(found) - plain
            lowest = min(lowest, float(gains.min()))
            kept = "".join(f", {chosen.count(name)} x {name}" for name in dict.fromkeys(chosen) if name != 1e-4)
            row.append(f"{np.mean(found):.1f} ± {np.std(found):.1f} ({gains.mean():+.1f}{kept})")
        rows.append(row)
        print(row, flush=True)
    table(["", "words", *(f"{count} pictures" for count in DRAWN)], rows)
    slowest = max(seconds for count, seconds in fits if count == max(DRAWN))
    print(f"{asked.draws} draws, {asked.scenes} scenes; lowest gain of a draw {lowest:+.2f}; slowest {slowest:.2f} s")


if __name__ == "__main__":
    main()
