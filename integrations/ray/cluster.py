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


def workers_of(device: str | None, workers: int | None = None, spare: int = 0) -> tuple[int, dict[str, Any], str]:
    """How many workers there shall be, what each takes, and its device.

    Args:
        device: "cpu" keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none. More than there are GPUs share
            them.
        spare: processors that are left to others, where there are more than these.

    Raises:
        SettingError: fewer are left to others with that many workers; they would wait for ever.
    """
    has = needs("ray", "ray").cluster_resources()
    gpus, processors = int(has.get("GPU", 0)), int(has.get("CPU", 1))
    room = processors - spare
    each: dict[str, Any] = {"num_cpus": 1 if room > 0 else 0}
    on_gpus = bool(gpus) and device != "cpu"
    if workers is None:
        workers = max(1, min(gpus, room) if on_gpus else room)
    if spare and workers > max(1, room):
        raise SettingError(
            f"workers={workers} would leave none of {processors} processors to what comes before and after them; "
            f"expected {max(1, room)} or fewer."
        )
    if on_gpus:
        each["num_gpus"] = 1 / math.ceil(workers / gpus)
    return workers, each, "cuda" if on_gpus else "cpu"
