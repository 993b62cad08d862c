"""Memory of `sclip serve` while many clients send large pictures at once.

    python benchmarks/serving_memory.py [--requests 2000] [--clients 32] [--megapixels 24]

Prints the server's memory before (the model is loaded and has answered once) and its peak, beside how many requests
were answered, refused with 503 because too much was waiting, or lost.
"""

from __future__ import annotations

import argparse
import collections
import io
import itertools
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

import sclip_plugin as sp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--megapixels", type=float, default=24)
    options = parser.parse_args()
    large, small = picture(options.megapixels), picture(0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sclip_plugin", "serve", "-m", "demo", "--device", "cpu", "--port", str(port)]
    server = subprocess.Popen(command)
    statuses: collections.Counter[object] = collections.Counter()
    kinds = itertools.cycle(("rle", "png", "none", "encode"))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:

            def ask(data: bytes, kind: str = "rle") -> object:
                try:
                    if kind == "encode":
                        return client.post("/encode", files={"picture": data}).status_code
                    fields = {"labels": "cat, dog, grass, sky, house", "mask_format": kind}
                    return client.post("/segment", files={"picture": data}, data=fields).status_code
                except httpx.HTTPError as error:
                    return type(error).__name__

            for _ in range(600):
                if ask(small) == 200:
                    break
                time.sleep(0.1)
            before = memory(server.pid, "VmRSS")
            start = time.perf_counter()
            with ThreadPoolExecutor(options.clients) as pool:
                asked = [pool.submit(ask, large, next(kinds)) for _ in range(options.requests)]
                for request in asked:
                    statuses[request.result()] += 1
            seconds = time.perf_counter() - start
            peak, after = memory(server.pid, "VmHWM"), memory(server.pid, "VmRSS")
    finally:
        server.terminate()
        server.wait()
    what = f"{options.requests} pictures of {options.megapixels:g} megapixels"
    print(f"{what} from {options.clients} clients: {seconds:.0f} s")
    print(f"answers: {dict(statuses)}")
    print(f"memory: {before} MiB before, {peak} MiB at most ({peak - before} MiB beside the model), {after} MiB after")


def picture(megapixels: float) -> bytes:
    """A scene with noise as a JPEG, so that it decodes and segments like a photograph."""
    width = round((megapixels * 1e6 * 1.5) ** 0.5)
    scene = sp.draw_scene(seed=1).picture.resize((width, round(megapixels * 1e6 / width)), Image.Resampling.BICUBIC)
    values = np.asarray(scene, np.int16)
    noise = np.random.default_rng(0).integers(-8, 9, values.shape[:2], np.int16)[..., None]
    file = io.BytesIO()
    Image.fromarray((values + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def memory(process: int, kind: str) -> int:
    """MiB, as the kernel counts them."""
    found = re.search(rf"{kind}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


if __name__ == "__main__":
    main()
