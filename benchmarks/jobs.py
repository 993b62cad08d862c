"""What a job on Ray costs beside the same pictures in one process: pictures a second, start, bytes a picture.

python benchmarks/jobs.py --pictures 400

Pictures are drawn scenes of 500 x 375 as JPEG files, the model is the demo's: a small tower, so that what is not the
tower shows. One process has all cores as threads of torch; on Ray each core is a worker. Time on Ray counts from the
first block that is done to the last, without the start, which is said beside.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import ray
from sclip_plugin.integrations.ray import segment_files

import sclip_plugin as sp

LABELS = ["cat", "dog", "tree", "grass", "sky", "water", "sand", "house", "boat", "sun"]
BLOCK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photos")
        folder.mkdir()
        for seed in range(arguments.pictures):
            sp.draw_scene(seed, size=(500, 375)).picture.save(folder / f"{seed:06d}.jpg", quality=90)
        read = sum(path.stat().st_size for path in folder.iterdir()) / arguments.pictures
        alone = one_process(sorted(folder.iterdir()))
        began = time.perf_counter()
        ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False)
        seen: list[float] = []
        segment_files(
            folder, LABELS, out=Path(temporary, "out"), model="demo", block=BLOCK, workers=arguments.workers,
            report=lambda done, of: seen.append(time.perf_counter()),
        )  # fmt: skip
        on_ray = (arguments.pictures - BLOCK) / (seen[-1] - seen[0])
        parts = list(Path(temporary, "out/results.parquet").iterdir())
        written = sum(path.stat().st_size for path in parts) / arguments.pictures
        assert sum(pq.read_metadata(path).num_rows for path in parts) == arguments.pictures
        print(f"one process: {alone:.1f} pictures a second")
        print(f"Ray, {arguments.workers} workers: {on_ray:.1f} pictures a second ({on_ray / alone:.2f} of that)")
        print(f"from ray.init to the first block of {BLOCK}: {seen[0] - began:.1f} s")
        print(f"a picture: {read / 1000:.1f} KB read, {written / 1000:.2f} KB written")
        ray.shutdown()


def one_process(paths: list[Path]) -> float:
    """Pictures a second of a segmenter's stream, after a few to warm up."""
    segmenter = sp.Segmenter.from_pretrained("demo", presence=None, device="cpu")
    for _ in segmenter.stream(paths[:BLOCK], LABELS):
        pass
    began = time.perf_counter()
    for result in segmenter.stream(paths[BLOCK:], LABELS):
        result.mean_scores()
    return (len(paths) - BLOCK) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
