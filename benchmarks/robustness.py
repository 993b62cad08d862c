"""Long campaigns of faults, each kind in a process of its own, with a count of what came of them.

    python benchmarks/robustness.py                 # 12,000 faults and 600 kills; about 20 minutes on two cores
    python benchmarks/robustness.py --share 0.05    # a twentieth of each

What counts as an accident: an error that is not the package's, a file outside of the output folder, a result that is
not what it says, other figures after going on, or more than 2 GiB of memory. The tests run short ones of each kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY = 2048  # MiB
FAULTS = {
    "pictures_in_python": 4000,
    "arrays_in_python": 1000,
    "pictures_on_the_command_line": 1500,
    "labels_of_all_kinds": 1500,
    "settings_of_all_kinds": 1000,
    "masks": 1000,
    "benchmark_files": 1000,
    "picture_logs": 1000,
    "model_folders": 200,
}
KILLS = {"segmenting": 350, "evaluating": 150, "sharing": 100}


def run_one(name: str, count: int, seed: int) -> None:
    """One campaign in this process; prints its tally as JSON."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch
    from robustness import campaigns, kills

    torch.set_num_threads(1)  # children are forked
    campaign = getattr(campaigns if name in FAULTS else kills, name)
    with tempfile.TemporaryDirectory() as folder:
        wants_folder = "folder" in inspect.signature(campaign).parameters
        tally = campaign(count, seed, Path(folder)) if wants_folder else campaign(count, seed)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    memory = max(resource.getrusage(one).ru_maxrss for one in who) // (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({**dataclasses.asdict(tally), "memory": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="campaigns by name")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "COUNT"), help="one campaign in this process")
    arguments = parser.parse_args()
    if arguments.one:
        return run_one(arguments.one[0], int(arguments.one[1]), arguments.seed)
    bad = faults = killed = 0
    for name, full in {**FAULTS, **KILLS}.items():
        if arguments.only and name not in arguments.only:
            continue
        count = max(1, round(full * arguments.share))
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", __file__, "--seed", str(arguments.seed), "--one", name, str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name}: the campaign itself ended with {done.returncode}")
            bad += 1
            continue
        tally = json.loads(done.stdout.splitlines()[-1])
        accidents = tally["accidents"]
        if tally["memory"] > MEMORY:
            accidents.append(f"{tally['memory']} MiB of memory")
        seconds = time.perf_counter() - start
        print(
            f"{name:30} {tally['faults']:6,} {'kills' if name in KILLS else 'faults'}, {tally['refused']:6,} refused, "
            f"{len(accidents)} accidents, {tally['memory']} MiB, {seconds:.0f} s",
            flush=True,
        )
        for accident in accidents[:20]:
            print(f"    {accident}")
        bad += len(accidents)
        if name in KILLS:
            killed += tally["faults"]
        else:
            faults += tally["faults"]
    print(f"{faults:,} faults, {killed:,} kills, {bad} accidents")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
