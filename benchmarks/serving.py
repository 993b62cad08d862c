"""1,000 requests from 16 clients to `sclip serve` on loopback: none lost or mixed, memory, requests a second.

    python benchmarks/serving.py [--requests 1000] [--clients 16]

The loop beside it makes the same calls one after the other in one process, without HTTP.
"""

from __future__ import annotations

import argparse
import io
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

import sclip_plugin as sp

SCENES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    scenes = [sp.draw_scene(seed=seed) for seed in range(SCENES)]
    segmenter = sp.Segmenter.from_pretrained("demo", presence=None, device="cpu")
    expected = [segmenter(scene.picture, list(scene.labels)) for scene in scenes]
    looped = min(options.requests, 100)
    start = time.perf_counter()
    for index in range(looped):
        segmenter(scenes[index % SCENES].picture, list(scenes[index % SCENES].labels))
    print(f"loop of single calls: {looped / (time.perf_counter() - start):.1f} a second")

    files = []
    for scene in scenes:
        file = io.BytesIO()
        scene.picture.save(file, "PNG")
        files.append(file.getvalue())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sclip_plugin", "serve", "-m", "demo", "--device", "cpu", "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait(client)

            def ask(index: int) -> bool:
                scene, result = scenes[index % SCENES], expected[index % SCENES]
                answer = client.post(
                    "/segment", files={"picture": files[index % SCENES]}, data={"labels": ",".join(scene.labels)}
                )
                answer.raise_for_status()
                found = answer.json()["labels"]
                areas = result.areas()
                same = [entry["label"] for entry in found] == list(areas)
                return same and np.allclose([entry["area"] for entry in found], list(areas.values()), atol=1e-3)

            with ThreadPoolExecutor(options.clients) as pool:
                right = sum(pool.map(ask, range(options.requests // 5)))
                before, first = _resident(server.pid), options.requests // 5
                start = time.perf_counter()
                right += sum(pool.map(ask, range(first, options.requests)))
                seconds = time.perf_counter() - start
            print(f"server, {options.clients} clients: {(options.requests - first) / seconds:.1f} a second")
            print(f"right answers: {right} of {options.requests}")
            print(f"memory: {before} MiB after a fifth, {_resident(server.pid)} MiB at the end")
    finally:
        server.terminate()
        server.wait()


def _wait(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            client.get("/health")
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise SystemExit("the server did not start within a minute")


def _resident(process: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


if __name__ == "__main__":
    main()
