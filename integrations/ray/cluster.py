"""The Ray at hand, and how many workers it has room for."""

from __future__ import annotations

import logging
import math
import re
import socket
from typing import Any

from ...errors import SettingError
from ...importing import needs

_PLACE = re.compile(r"(ray://)?\[?(?P<host>[^/\]]+?)\]?:(?P<port>\d+)")


def start_ray(address: str | None = None, **options: Any) -> None:
    """Join the cluster at ``address``, or start this machine's own Ray (``"local"``); nothing if Ray runs already.

    Args:
        address: as ``ray.init`` takes it; None: RAY_ADDRESS, else a cluster on this machine, else one of its own.
        **options: of ``ray.init``.

    Raises:
        MissingPackageError: without the extra ``ray``.
        SettingError: nobody answers at the address.
    """
    ray = needs("ray", "ray")
    if ray.is_initialized():
        return
    needs("ray.data", "ray")  # which sets up its logging
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address and (place := _PLACE.fullmatch(address)):  # ray.init would try for minutes
            socket.create_connection((place["host"], int(place["port"])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(f"no Ray at {address!r} ({error}); expected 'local', 'auto' or HOST:PORT.") from error


def workers_of(device: str | None, workers: int | None = None) -> tuple[int, dict[str, Any], str]:
    """How many workers there shall be, what each takes, and its device.

    Args:
        device: "cpu" keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none. More than there are GPUs share
            them.
    """
    ray = needs("ray", "ray")
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    if gpus and device != "cpu":
        workers = workers or gpus
        return workers, {"num_gpus": 1 / math.ceil(workers / gpus), "num_cpus": 1}, "cuda"
    return workers or max(1, int(has.get("CPU", 1))), {"num_cpus": 1}, "cpu"
