"""Videos: how fast, beside their frames as pictures; what smoothing does to flicker and truth; which moments are found.

    python benchmarks/video.py [--tower demo|ViT-B-16] [--size 640x480] [--frames 60] [--rate 25]

Speed: a film of that many frames looked at, at 1 frame a second of a rate of 25, in H.264; all in one process, medians
of three. Smoothing: a held-out scene that stands, and a view that moves over a large one, under noise. Moments: three
films of 40 held-out scenes, a second each, words of all their labels.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, HELD_OUT_FIRST_SEED
from sclip_plugin.evaluation.metric import IoUTotals
from sclip_plugin.video import Video
from sclip_plugin.video.searching import SEEN, search_frames
from sclip_plugin.video.writing import write_video

SHARES = (0.0, 0.3, 0.5, 0.7, 0.9)
NOISE = 40  # standard deviation, of 255
SECONDS, SIZE, STEP = 24, (216, 144), 4  # frames of each film, size and movement of the view in pixels


def segmenter(tower: str) -> sp.Segmenter:
    if tower == "demo":
        return sp.Segmenter.from_pretrained("demo", presence=None, cache_dir=False)
    import open_clip
    import torch

    torch.manual_seed(0)
    return sp.Segmenter(
        open_clip.create_model(tower), open_clip.get_tokenizer(tower), cache_dir=False, templates="plain"
    )


# ---- speed ---------------------------------------------------------------------------------------------------------


def seconds(action) -> float:
    start = time.perf_counter()
    for _ in action():
        pass
    return time.perf_counter() - start


def speed(tower: str, size: tuple[int, int], frames: int, rate: int, folder: Path) -> None:
    seg, path = segmenter(tower), folder / "film.mp4"
    scenes = [sp.draw_scene(HELD_OUT_FIRST_SEED + i).picture.resize(size) for i in range(6)]
    with write_video(path, rate) as film:
        for i in range(frames * rate):
            film.add(scenes[i * 6 // (frames * rate)])
    labels = list(CLASSES[:21])
    pictures = [frame.picture for frame in Video(path).frames(1)]
    ways = {
        "pictures": lambda: seg.stream(pictures, labels),
        "video": lambda: sp.segment_video(seg, path, labels),
        "smoothed": lambda: sp.segment_video(seg, path, labels, smoothing=0.5),
        "search": lambda: search_frames(seg, path, "cat"),
        "reading": lambda: Video(path).frames(1),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    seconds(ways["pictures"])
    for _ in range(3):
        for name, way in ways.items():
            took[name].append(seconds(way))
    per = {name: frames / statistics.median(values) for name, values in took.items()}
    ratios = {name: statistics.median(p / v for p, v in zip(took["pictures"], took[name], strict=True)) for name in per}
    for name in per:
        print(f"{tower}, {size[0]}x{size[1]}, {name}: {per[name]:.2f} frames a second, {ratios[name]:.2f} of pictures")


# ---- smoothing -----------------------------------------------------------------------------------------------------


def views(moving: bool, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels of a view, and the truth in it."""
    width, height = SIZE
    scene = sp.draw_scene(HELD_OUT_FIRST_SEED + seed, (width + SECONDS * STEP * moving, height))
    pixels, truth = np.asarray(scene.picture), np.array([CLASSES.index(n) for n in scene.labels])[scene.label_map]
    lefts = [STEP * i * moving for i in range(SECONDS)]
    return [(pixels[:, left : left + width], truth[:, left : left + width]) for left in lefts]


def smoothing(films: int) -> None:
    seg = segmenter("demo")
    for moving in (False, True):
        for share in SHARES:
            totals, flicker = IoUTotals(len(CLASSES)), []
            for seed in range(films):
                rng, shown = np.random.default_rng(seed), views(moving, seed)
                noisy = [pixels + rng.normal(0, NOISE, pixels.shape) for pixels, _ in shown]
                pictures = [Image.fromarray(values.clip(0, 255).astype(np.uint8)) for values in noisy]
                before = None
                for result, (_, truth) in zip(seg.stream(pictures, CLASSES, smoothing=share), shown, strict=True):
                    totals.add(result.label_map, truth)
                    here = result.label_map[:, : SIZE[0] - STEP * moving]
                    if before is not None:  # the same places, where the view moves
                        flicker.append((here != before[:, STEP * moving :]).mean())
                    before = result.label_map
            print(f"{'moving' if moving else 'still'}, smoothing {share}: flicker {100 * np.mean(flicker):.2f} %, "
                  f"mIoU {100 * totals.miou:.1f}")  # fmt: skip


# ---- moments -------------------------------------------------------------------------------------------------------


def found(folder: Path) -> None:
    seg, path = segmenter("demo"), folder / "scenes.mp4"
    scores: dict[float, list[float]] = {cut: [] for cut in (0.5, 0.6, 0.7, SEEN, 0.8)}
    for film in range(3):
        scenes = [sp.draw_scene(HELD_OUT_FIRST_SEED + 40 * film + i) for i in range(40)]
        with write_video(path, 1) as out:
            for scene in scenes:
                out.add(scene.picture)
        words = sorted({word for scene in scenes for word in scene.labels})
        hits = [seen.hit for seen in search_frames(seg, path, words)]
        for word in words:
            said = np.array([hit.scores[word] for hit in hits])
            there = np.array([word in scene.labels for scene in scenes])
            for cut, values in scores.items():
                above = said >= said.min() + cut * (said.max() - said.min())
                values.append(2 * (above & there).sum() / (above.sum() + there.sum()))
    for cut, values in scores.items():
        print(f"seen above {cut} of the range: F1 {np.mean(values):.3f} over {len(values)} words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", default="demo")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rate", type=int, default=25)
    parser.add_argument("--films", type=int, default=10, help="of each kind, for smoothing; 0: speed alone")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        speed(options.tower, (width, height), options.frames, options.rate, Path(folder))
        if options.films:
            smoothing(options.films)
            found(Path(folder))


if __name__ == "__main__":
    main()
