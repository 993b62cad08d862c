"""How well names without a vocabulary say what is in a picture: F1 a scene, by list; and how long it takes.

    python benchmarks/names.py                 # 60 held-out scenes of the demo
    python benchmarks/names.py --scenes 100 --skip 200
    python benchmarks/names.py --list FILE     # another list in place of the shipped one, one word a line

"Synonyms counted": a word that the model holds for a name of the scenes (cosine >= 0.8) counts as that name. The list
without synonyms leaves all such words out. timm's list, where timm is installed, has 20,000 words.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES, held_out_scenes
from sclip_plugin.segment.covering import greedy_cover, likeness, merged, regions
from sclip_plugin.segment.naming import ALIKE, LEAST
from sclip_plugin.text.files import read_labels
from sclip_plugin.text.wordlist import WordList, shipped


def f1(found, there):
    return 2 * len(found & there) / max(len(found) + len(there), 1)


def in_file(folder, name, words):
    path = Path(folder) / f"{name}.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return f"@auto:{path}"


def names_meant(segmenter, words):
    """Word to the demo's name that the model holds it for."""
    known = segmenter.word_bank.of(WordList.of(CLASSES))
    cosines = segmenter.word_bank.of(words) @ known.T
    meant = {words.words[i]: CLASSES[int(row.argmax())] for i, row in enumerate(cosines) if row.max() >= ALIKE}
    return {**meant, **{name: name for name in CLASSES}}


def measured(segmenter, encoded, scenes, labels, meant):
    """(F1 strict, F1 with synonyms counted, names a scene)."""
    strict, counted, numbers = [], [], []
    for look, scene in zip(encoded, scenes, strict=True):
        found = {name.word for name in segmenter.names(look, labels=labels)}
        strict.append(f1(found, set(scene.labels)))
        counted.append(f1({meant.get(word, word) for word in found}, set(scene.labels)))
        numbers.append(len(found))
    return np.mean(strict), np.mean(counted), np.mean(numbers)


def quality(segmenter, encoded, scenes, labels):
    """mIoU of the demo's names, absent labels painting as a miss."""
    hit, union = np.zeros(50), np.zeros(50)
    for look, scene in zip(encoded, scenes, strict=True):
        truth = np.array([CLASSES.index(word) for word in scene.labels])[scene.label_map]
        result = look.segment(labels)
        index = np.array([CLASSES.index(word) for word in result.labels] + [-1])
        found = index[result.label_map]
        for name in range(50):
            hit[name] += ((truth == name) & (found == name)).sum()
            union[name] += ((truth == name) | (found == name)).sum()
    return 100 * np.mean((hit / union.clip(min=1))[union > 0])


def milliseconds(segmenter, look, words):
    """Median time of naming an encoded picture, the list's embeddings in memory."""
    bank, null = segmenter.word_bank.of(words), segmenter.chain.null
    patches, times = look.features().flatten(1).T, []
    for _ in range(21):
        start = time.perf_counter()
        centre, share = regions(patches)
        cosines = centre @ bank.T
        taken = greedy_cover(cosines, share, null.raw_median + null.raw_spread, LEAST * null.raw_spread)
        merged(taken, likeness(bank, taken, bank[:64].mean(dim=0)) >= ALIKE, cosines, words, frozenset(), 0.05)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def of_noise(segmenter, labels):
    """The most names that noise, one colour, or a CLIP with random weights gets."""
    from presence import randomised

    drawn = [np.random.default_rng(seed).integers(0, 256, (144, 216, 3), dtype=np.uint8) for seed in range(10)]
    plain = [np.full((144, 216, 3), grey, dtype=np.uint8) for grey in (0, 128, 255)]
    counts = {
        "noise": [len(segmenter.names(picture, labels=labels)) for picture in drawn],
        "one colour": [len(segmenter.names(picture, labels=labels)) for picture in plain],
    }
    scenes = [sp.draw_scene(seed=seed, size=(216, 144)).picture for seed in range(1000, 1010)]
    for seed in range(5):
        other = randomised(seed)
        counts[f"random weights {seed}"] = [len(other.names(picture, labels=labels)) for picture in scenes]
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--skip", type=int, default=100, help="leave out so many held-out scenes in front")
    parser.add_argument("--list", type=Path, help="words in place of the shipped list, one a line")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scenes = list(itertools.islice(held_out_scenes(asked.skip + asked.scenes, (216, 144)), asked.skip, None))
    segmenter = sp.Segmenter.from_pretrained("demo")
    long = WordList.of(itertools.chain.from_iterable(read_labels(asked.list))) if asked.list else shipped()
    start = time.perf_counter()
    segmenter.word_bank.of(long)
    print(f"{len(long.words):,} words embedded or read in {time.perf_counter() - start:.1f} s")
    encoded = [segmenter.encode(scene.picture, dtype=torch.float32) for scene in scenes]
    meant = names_meant(segmenter, long)
    clear = [word for word in long.words if word not in meant]
    with tempfile.TemporaryDirectory() as folder:
        lists = {
            "the demo's 50": in_file(folder, "own", CLASSES),
            f"50 + {len(long.words):,}": in_file(folder, "both", [*CLASSES, *long.words]),
            f"50 + {len(clear):,} (no synonyms)": in_file(folder, "clear", [*CLASSES, *clear]),
        }
        print(f"{'':28} strict synonyms counted names/scene")
        for name, labels in lists.items():
            print(
                f"{name:28} {'{:.3f} {:16.3f} {:11.1f}'.format(*measured(segmenter, encoded, scenes, labels, meant))}"
            )
        own = quality(segmenter, encoded, scenes, lists["the demo's 50"])
        offered = quality(segmenter, encoded, scenes, list(CLASSES))
        print(f"mIoU with the names found {own:.2f}, with all 50 offered {offered:.2f}")
        for words in (long, timm_words()):
            if words is not None:
                spent = milliseconds(segmenter, encoded[0], words)
                print(f"{len(words.words):,} words: {spent:.1f} ms a picture, one core, beside the tower")
    for name, counts in of_noise(segmenter, "@auto").items():
        print(f"{name}: {max(counts)} names at most, {np.mean(counts):.2f} on average")


def timm_words():
    """ImageNet-22k's words, where timm is installed."""
    try:
        import timm.data
    except ImportError:
        return None
    path = Path(timm.data.__file__).parent / "_info" / "imagenet_synset_to_lemma.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return WordList.of(line.split("\t")[-1].split(",")[0] for line in lines)


if __name__ == "__main__":
    main()
