"""An index: what it finds on the demo's scenes, how fast it is built and asked, how large it is, what it leaves out.

    python benchmarks/index.py --scenes 200 --pictures 100000
    python benchmarks/index.py --scenes 0 --pictures 2000 --lancedb    # beside LanceDB, on the same vectors

Scenes are the first held-out ones. The pictures are generated: 32 regions of 512 values, each near one of 2,000
directions; a word is a direction too, as far from its regions as words of a CLIP are from patches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, GROUNDS, HELD_OUT_FIRST_SEED
from sclip_plugin.index.nearest import update_codes
from sclip_plugin.index.regions import Reduced, quantised
from sclip_plugin.index.searching import EXACT_UP_TO, Question, Searcher
from sclip_plugin.index.store import IndexStore, Row

SIZE = (216, 144)
SHOWN = 64  # pixels, one patch: less of a thing is no thing
SMALL = 0.015  # of a picture: a thing of about 22 x 22 pixels
REGIONS, WIDTH, DIRECTIONS = 32, 512, 2000
AT_ONCE = 1000


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


# ---- what is found -------------------------------------------------------------------------------------------------


def average_precision(scores: np.ndarray, held: np.ndarray) -> float:
    held = held[np.argsort(-scores, kind="stable")]
    return float((held.cumsum() / np.arange(1, len(held) + 1))[held].mean())


def quality(count: int) -> None:
    seg = sp.Segmenter.from_pretrained("demo", presence=None)
    scenes = [sp.draw_scene(HELD_OUT_FIRST_SEED + i, SIZE) for i in range(count)]
    truths = [np.array([CLASSES.index(name) for name in s.labels])[s.label_map] for s in scenes]
    areas = np.stack([np.bincount(truth.ravel(), minlength=len(CLASSES)) for truth in truths])
    small = SMALL * SIZE[0] * SIZE[1]
    with tempfile.TemporaryDirectory() as name:
        photos, folder = Path(name) / "photos", Path(name) / "index"
        photos.mkdir()
        for i, scene in enumerate(scenes):
            scene.picture.save(photos / f"{i:06}.png")
        start = time.perf_counter()
        index = sp.Index.build(seg, photos, folder)
        built = time.perf_counter() - start
        start = time.perf_counter()
        sp.Index.build(seg, photos, folder)
        again = time.perf_counter() - start
        start = time.perf_counter()
        encoded = seg.encode([scene.picture for scene in scenes])
        alone = time.perf_counter() - start
        print(
            f"{count} scenes indexed in {built:.1f} s, of which the tower {alone:.1f} s; again {again:.2f} s; ", end=""
        )
        print(f"{bytes_in(folder) / count / 1000:.1f} KB a picture, of D = {encoded[0].image.shape[0]}")
        patches = [each.similarity(list(CLASSES)) for each in encoded]
        ranked = {kind: np.zeros(areas.shape) for kind in ("whole picture", "index", "every patch")}
        overlaps: dict[str, list[tuple[str, float]]] = {"index": [], "every patch": []}
        text = seg.text_embeddings(list(CLASSES))[1]
        for i, each in enumerate(encoded):
            features = torch.nn.functional.normalize(each.features().flatten(1).T, dim=1)
            ranked["every patch"][i] = (features @ text.T).amax(dim=0).numpy()
        for k, word in enumerate(CLASSES):
            for hit in index.search(word, top=count, by="picture"):
                ranked["whole picture"][int(Path(hit.path).stem), k] = hit.score
            for hit in index.search(word, top=count):
                i = int(Path(hit.path).stem)
                ranked["index"][i, k] = hit.score
                if areas[i, k] >= SHOWN:
                    kind = "grounds" if word in GROUNDS else "small things" if areas[i, k] < small else "things"
                    heat, truth = patches[i][k], truths[i] == k
                    shown = {"index": hit.mask(), "every patch": heat >= heat.min() + 0.75 * (heat.max() - heat.min())}
                    for name, mask in shown.items():
                        overlaps[name].append((kind, float((mask & truth).sum() / (mask | truth).sum())))
    things = [k for k, name in enumerate(CLASSES) if name not in GROUNDS]
    groups = {
        "all": (range(len(CLASSES)), SHOWN, np.inf),
        "things": (things, small, np.inf),
        "small things": (things, SHOWN, small),
        "grounds": ([k for k in range(len(CLASSES)) if k not in things], SHOWN, np.inf),
    }
    print("| mAP of which pictures hold it | all | things | small things | grounds |\n|---|---|---|---|---|")
    for kind, scores in ranked.items():
        means = []
        for members, low, high in groups.values():
            held = (areas >= low) & (areas < high)
            told = held | (areas == 0)  # a picture with the thing in another size, or less of it, is not asked about
            found = [average_precision(scores[told[:, k], k], held[told[:, k], k]) for k in members if held[:, k].any()]
            means.append(f"{np.mean(found):.3f}")
        print(f"| {kind} | {' | '.join(means)} |")
    best = {kind: np.argsort(-scores, axis=0, kind="stable")[:10].T.tolist() for kind, scores in ranked.items()}
    pairs_of_ten = zip(best["index"], best["every patch"], strict=True)
    shared = np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in pairs_of_ten])
    print(f"of the ten best by every patch the index has among its ten {shared:.3f}")
    print("\n| IoU of where | things | small things | grounds |\n|---|---|---|---|")
    for name, pairs in overlaps.items():
        means = [
            np.mean([iou for kind, iou in pairs if kind == group]) for group in ("things", "small things", "grounds")
        ]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


# ---- how fast, how large, how exact --------------------------------------------------------------------------------


def directions() -> np.ndarray:
    return unit(np.random.default_rng(0).standard_normal((DIRECTIONS, WIDTH)))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def regions(first: int, count: int) -> np.ndarray:
    """(count * REGIONS, WIDTH): of pictures ``first`` and so on, always the same."""
    rng = np.random.default_rng([1, first])
    noise = rng.standard_normal((count * REGIONS, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    return unit(directions()[rng.integers(0, DIRECTIONS, count * REGIONS)] + noise)


def words(count: int) -> np.ndarray:
    """(count, WIDTH): a cosine of about a third with the regions that they mean."""
    noise = np.random.default_rng(2).standard_normal((count, WIDTH)) / WIDTH**0.5
    return unit(directions()[:count] + 1.8 * noise)


def fill(store: IndexStore, count: int) -> float:
    """Put pictures into a store; the seconds that it took, without making them."""
    seconds, whole = 0.0, np.zeros(WIDTH, np.int8)
    grid = np.arange(21 * 28, dtype=np.uint8).reshape(21, 28) % REGIONS
    for first in range(0, count, AT_ONCE):
        number = min(AT_ONCE, count - first)
        vectors, scales = quantised(torch.from_numpy(regions(first, number)))
        start = time.perf_counter()
        rows = [
            Row(
                f"{i % 100:02}/{i:07}.jpg",
                0,
                0,
                i.to_bytes(32, "big"),
                (336, 448),
                None,
                Reduced(grid, v, s, whole, 1.0),
            )
            for i, v, s in zip(
                range(first, first + number),
                vectors.reshape(number, REGIONS, -1),
                scales.reshape(number, -1),
                strict=True,
            )
        ]
        store.append(lambda rows=rows: rows)
        seconds += time.perf_counter() - start
    return seconds


def best_exactly(asked: np.ndarray, count: int) -> np.ndarray:
    """(words, 10): the pictures whose best region is best, in single precision."""
    best = np.empty((len(asked), count), np.float32)
    for first in range(0, count, AT_ONCE):
        number = min(AT_ONCE, count - first)
        of_regions = asked @ regions(first, number).T
        best[:, first : first + number] = of_regions.reshape(len(asked), number, REGIONS).max(axis=2)
    return np.argsort(-best, axis=1)[:, :10]


def question(*vectors: np.ndarray, without: int = 0) -> Question:
    count = len(vectors) - without
    return Question(tuple(map(str, range(count))), np.stack(vectors), np.arange(len(vectors)))


def timed(ask, times: int) -> str:
    ask(0)
    taken = []
    for i in range(times):
        start = time.perf_counter()
        ask(i)
        taken.append(1000 * (time.perf_counter() - start))
    return f"{np.median(taken):.0f} ms (slowest {max(taken):.0f})"


def scale(count: int, asked: int, with_lancedb: bool) -> None:
    exact = best_exactly(words(asked), count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        store = IndexStore.create(folder, {})
        added = fill(store, count)
        start = time.perf_counter()
        update_codes(store, EXACT_UP_TO)
        coded = time.perf_counter() - start
        print(f"{count} pictures of {REGIONS} regions, D = {WIDTH}: written in {added:.0f} s, ", end="")
        print(f"coded in {coded:.0f} s, ", end="")
        print(f"{bytes_in(folder) / count / 1000:.1f} KB a picture")
        start = time.perf_counter()
        searcher = Searcher(IndexStore(folder))
        searcher.search(question(words(1)[0]), 20, None, False)
        print(f"opened and asked once in {time.perf_counter() - start:.1f} s")
        given = words(asked)
        found = [[int(hit.path[3:10]) for hit in searcher.search(question(w), 10, None, False)] for w in given]
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact.tolist(), strict=True)])
        print(f"recall@10 against exact search in single precision: {recall:.3f}, {asked} words")

        def ask(*offsets: int, without: int = 0, under: str | None = None, by_picture: bool = False) -> str:
            def once(i: int) -> None:
                vectors = [given[(i + offset) % asked] for offset in offsets]
                searcher.search(question(*vectors, without=without), 20, under, by_picture)

            return timed(once, asked)

        print("one word:", ask(0))
        print("one without another:", ask(0, 1, without=1))
        print("two without a third:", ask(0, 1, 2, without=1))
        print("one in a folder with a hundredth of the pictures:", ask(0, under="07"))
        print("one in half of the folders:", ask(0, under="[0-4]*"))
        print("one by the whole picture:", ask(0, by_picture=True))
        if with_lancedb:
            lancedb(count, given, exact, Path(name) / "lance")


def lancedb(count: int, asked: np.ndarray, exact: np.ndarray, folder: Path) -> None:
    """The same regions as rows of LanceDB, in half precision, with its IVF_PQ."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    table, added = None, 0.0
    for first in range(0, count, AT_ONCE):
        number = min(AT_ONCE, count - first)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(regions(first, number).astype(np.float16).ravel()), WIDTH)
        rows = pa.table({"picture": np.repeat(np.arange(first, first + number), REGIONS), "vector": vectors})
        start = time.perf_counter()
        if table is None:
            table = lancedb.connect(folder).create_table("regions", rows)
        else:
            table.add(rows)
        added += time.perf_counter() - start
    plain = bytes_in(folder)

    def ask(i: int, **options: int) -> list[int]:
        query = table.search(asked[i]).distance_type("dot").limit(500).select(["picture", "_distance"])
        for option, value in options.items():
            query = getattr(query, option)(value)
        return list(dict.fromkeys(query.to_arrow()["picture"].to_pylist()))[:10]

    print(f"LanceDB: written in {added:.0f} s, {plain / count / 1000:.1f} KB a picture; without an index", end=" ")
    print(timed(ask, len(asked)))
    start = time.perf_counter()
    table.create_index("vector", config=IvfPq(distance_type="dot", num_partitions=64, num_sub_vectors=64))
    print(f"LanceDB: index made in {time.perf_counter() - start:.0f} s,", end=" ")
    print(f"{bytes_in(folder) / count / 1000:.1f} KB a picture")
    for options in ({"nprobes": 16, "refine_factor": 1}, {"nprobes": 64, "refine_factor": 4}):
        found = [ask(i, **options) for i in range(len(asked))]
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact.tolist(), strict=True)])
        print(f"LanceDB, {options}: recall@10 {recall:.3f},", timed(lambda i, o=options: ask(i, **o), len(asked)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200, help="of the demo; 0: leave quality out")
    parser.add_argument("--pictures", type=int, default=100_000, help="that are generated; 0: leave scale out")
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--lancedb", action="store_true", help="the same in LanceDB (pip install lancedb)")
    options = parser.parse_args()
    if options.scenes:
        quality(options.scenes)
    if options.pictures:
        scale(options.pictures, options.words, options.lancedb)
