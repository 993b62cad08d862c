"""A stand-in for a model: label maps that are a function of the picture alone. Run as a script it evaluates with it.

python -m torch.distributed.run --nproc-per-node 3 stand_in.py BENCHMARK DATA OUTPUT SECONDS_PER_PICTURE
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


class StandIn:
    """Classes by colour; counts what it was given."""

    def __init__(self, num_classes: int, seconds: float = 0.0) -> None:
        self.num_classes = num_classes
        self.seconds = seconds
        self.pictures = 0

    def __call__(self, pictures):
        time.sleep(self.seconds * len(pictures))
        self.pictures += len(pictures)
        return [(np.asarray(picture).astype(np.int16).sum(axis=2) // 60) % self.num_classes for picture in pictures]


def main(name: str, data: str, output: str, seconds: str) -> None:
    from sclip_plugin.evaluation.processes import Processes
    from sclip_plugin.evaluation.report import write_report
    from sclip_plugin.evaluation.runner import evaluate
    from sclip_plugin.evaluation.sets import folder_set
    from sclip_plugin.protocols import load_benchmark

    processes = Processes.start()
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(output, f"{processes.rank}.pid").write_text(str(os.getpid()))  # for the test that kills it
    benchmark = load_benchmark(name)
    predict = StandIn(benchmark.num_classes, float(seconds))
    result = evaluate(folder_set(benchmark, data), predict, output=output, processes=processes)
    if processes.first:
        write_report(result, Path(output))
    line = json.dumps({"rank": processes.rank, "computed": predict.pictures, "miou": result.miou})
    os.write(1, f"{line}\n".encode())  # in one piece: the other processes write to the same pipe
    processes.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
