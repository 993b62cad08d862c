"""How well a model says whether a word is there: precision, recall, and what absent words paint.

    python benchmarks/presence.py                    # 100 held-out scenes by the null that ships with the demo
    python benchmarks/presence.py --skip 200 --size 320x200
    python benchmarks/presence.py --learn 20         # a null learned from so many training scenes
    python benchmarks/presence.py --seed 3 --rates   # other scenes, in other styles, too; precision and recall alone

One default for all rows. The scenes are 216 x 144; all 50 words are offered but where a row says otherwise.
"""

import argparse
import io
import itertools
import statistics
import time

import numpy as np
import torch
from PIL import Image, ImageFilter

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, demo_model, held_out_scenes
from sclip_plugin.demo.scenes import HELD_OUT_FIRST_SEED, compose


def noisy(picture, seed=0):
    values = np.asarray(picture, dtype=np.float64)
    drawn = np.random.default_rng(seed).normal(0, 25, values.shape)
    return Image.fromarray(np.clip(values + drawn, 0, 255).round().astype(np.uint8))


def as_jpeg(picture, quality=12):
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(held).convert("RGB")


def tinted(picture):
    return Image.fromarray((np.asarray(picture) * np.array([0.7, 1.0, 1.0])).astype(np.uint8))


def resized(picture, times):
    return picture.resize((round(picture.width * times), round(picture.height * times)), Image.Resampling.BICUBIC)


KINDS = {
    "plain": lambda picture: picture,
    "double": lambda picture: resized(picture, 2),
    "half": lambda picture: resized(picture, 0.5),
    "noise 25": noisy,
    "blur 2": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "JPEG 12": as_jpeg,
    "tint": tinted,
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "dark": lambda picture: picture.point(lambda value: value // 2),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "quarter": lambda picture: resized(picture, 0.25),
}
STYLES = {
    "small things": (5, (14, 28)),
    "large things": (2, (70, 110)),
    "many things": (9, (28, 60)),
    "one thing": (1, (28, 60)),
    "no thing": (0, (28, 60)),
}
"""How many things are tried to be placed, and their smallest and largest longer side in pixels."""


class Drawn:
    """A scene in another style than the demo was trained with."""

    def __init__(self, seed, style, size):
        things, longest = STYLES[style]
        canvas, _, things, grounds = compose(np.random.default_rng(seed), size, things, longest=longest)
        self.picture = Image.fromarray(canvas.round().astype(np.uint8))
        self.labels = (*things, *grounds)


def rates(found):
    """(precision, recall, absent words called present a scene) of pairs (called, there)."""
    called, there = (sum(len(pair[i]) for pair in found) for i in (0, 1))
    right = sum(len(pair[0] & pair[1]) for pair in found)
    return right / max(called, 1), right / there, (called - right) / len(found)


def called(result):
    return {word for word, number in result.presence.items() if number >= 0.5}


def offered_absent(segmenter, scenes, count):
    """Share of scenes in which one of ``count`` absent words, offered alone, is called present."""
    drawn = np.random.default_rng(count)
    wrong = 0
    for scene in scenes:
        absent = [word for word in CLASSES if word not in scene.labels]
        wrong += bool(called(segmenter(scene.picture, list(drawn.permutation(absent)[:count]))))
    return wrong / len(scenes)


def painting(segmenter, scenes, present):
    """(mIoU of the words that are there, absent words that get pixels a scene), all words offered."""
    hit, union, absent = np.zeros(50), np.zeros(50), 0
    for scene in scenes:
        truth = np.array([CLASSES.index(word) for word in scene.labels])[scene.label_map]
        found = segmenter(scene.picture, list(CLASSES), present=present).label_map
        absent += len(set(np.unique(found)) - set(np.unique(truth)) - {-1})
        for index in range(50):
            hit[index] += ((truth == index) & (found == index)).sum()
            union[index] += ((truth == index) | (found == index)).sum()
    return 100 * np.mean((hit / union.clip(min=1))[union > 0]), absent / len(scenes)


def randomised(seed):
    """A segmenter of a CLIP of the demo's structure with random weights, and its null of 20 training scenes."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig.from_pretrained(demo_model())).eval()
    segmenter = sp.Segmenter(model, AutoTokenizer.from_pretrained(demo_model()), cache_dir=False)
    scenes = (sp.draw_scene(seed=seed, size=(216, 144)).picture for seed in range(20))
    segmenter.chain.null = sp.Presence.build(segmenter, scenes)
    return segmenter


def added_time(segmenter, scene):
    """Median ratio of a call with presence to one without, over 41 pairs in turn."""
    ratios = []
    for _ in range(41):
        times = []
        for present in (False, True):
            start = time.perf_counter()
            segmenter(scene.picture, list(CLASSES), present=present)
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--skip", type=int, default=100, help="leave out so many held-out scenes in front")
    parser.add_argument("--seed", type=int, default=0, help="other scenes than those of 0; with it --skip is 0")
    parser.add_argument("--rates", action="store_true", help="precision and recall alone, of all styles")
    parser.add_argument("--size", default="216x144")
    parser.add_argument("--learn", type=int, help="learn the null from so many training scenes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(map(int, asked.size.split("x")))
    first = HELD_OUT_FIRST_SEED + 1_000_000 * asked.seed
    if asked.seed:
        scenes = [sp.draw_scene(first + index, size) for index in range(asked.scenes)]
    else:
        scenes = list(itertools.islice(held_out_scenes(asked.skip + asked.scenes, size), asked.skip, None))
    segmenter = sp.Segmenter.from_pretrained("demo")
    if asked.learn:
        pictures = (sp.draw_scene(seed=seed, size=(216, 144)).picture for seed in range(asked.learn))
        segmenter.chain.null = sp.Presence.build(segmenter, pictures)
    print(f"{'':12} precision recall absent/scene")
    for name, change in KINDS.items():
        found = [(called(segmenter(change(scene.picture), list(CLASSES))), set(scene.labels)) for scene in scenes]
        print(f"{name:12} {'{:9.3f} {:6.3f} {:12.2f}'.format(*rates(found))}", flush=True)
    for style in STYLES if asked.rates else ():
        drawn = [Drawn(first + index, style, size) for index in range(asked.scenes)]
        found = [(called(segmenter(scene.picture, list(CLASSES))), set(scene.labels)) for scene in drawn]
        print(f"{style:12} {'{:9.3f} {:6.3f} {:12.2f}'.format(*rates(found))}", flush=True)
    if asked.rates:
        return
    for count in (1, 3, 10, 30):
        print(f"{count:2} absent words offered: false in {offered_absent(segmenter, scenes, count):.0%} of scenes")
    alone = np.mean([bool(called(segmenter(s.picture, [s.labels[i % len(s.labels)]]))) for i, s in enumerate(scenes)])
    print(f"a present word offered alone is found in {alone:.1%} of scenes")
    for present in (False, True):
        quality, absent = painting(segmenter, scenes[:60], present)
        print(f"painting, present={present}: mIoU {quality:.2f}, {absent:.2f} absent words with pixels a scene")
    counts = []
    for seed in range(5):
        other = randomised(seed)
        counts.append(np.mean([len(called(other(s.picture, list(CLASSES), present=True))) for s in scenes[:20]]))
    print(f"random weights: {np.mean(counts):.2f} of 50 words called present ({', '.join(f'{c:.2f}' for c in counts)})")
    large = sp.draw_scene(seed=7, size=(432, 288))
    print(f"time with presence / without: {added_time(segmenter, large):.3f}")


if __name__ == "__main__":
    main()
