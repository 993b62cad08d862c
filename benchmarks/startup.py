"""Start-up: `sclip --help`, `sclip demo`, and what `import sclip_plugin` adds to `import torch`; medians, in seconds.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Of a process of its own, from start to end, for a user who has never run the package."""
    with tempfile.TemporaryDirectory() as home:
        start = time.perf_counter()
        subprocess.run(
            command, check=True, cwd=home, env=os.environ | {"XDG_CACHE_HOME": home},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - start


def main() -> None:
    sclip = str(Path(sys.executable).with_name("sclip"))
    torch_alone, both = ([sys.executable, "-c", f"import {names}"] for names in ("torch", "torch, sclip_plugin"))
    seconds(both)  # the files come from the disk once
    added = [seconds(both) - seconds(torch_alone) for _ in range(9)]
    print(f"sclip --help: {statistics.median(seconds([sclip, '--help']) for _ in range(7)):.2f}")
    print(f"sclip demo: {statistics.median(seconds([sclip, 'demo']) for _ in range(3)):.2f}")
    print(f"import sclip_plugin after torch: {statistics.median(added):.3f}")


if __name__ == "__main__":
    main()
