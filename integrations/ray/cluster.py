"""The Ray at hand, and how many workers it has room for."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import SclipError, SettingError
from ...grammar import absolute
from ...importing import needs
from ...masks import find_masks
from ...methods import make_method
from ...settings import setting_names
from ...steps import listed, make_step

_EXCEPTION = re.compile(r"^[\w.]+\.\w+: ")  # in front of a message
_PLACE = re.compile(r"(ray://)?\[?(?P<host>[^/\]]+?)\]?:(?P<port>\d+)")


def start_ray(address: str | None = None) -> None:
    """Join the cluster at ``address``, or start this machine's own Ray (``"local"``); nothing if Ray runs already.

    Args:
        address: as ``ray.init`` takes it; None: RAY_ADDRESS, else a cluster on this machine, else one of its own.

    Raises:
        MissingPackageError: without the extra ``ray``.
        SettingError: nobody answers at the address.
    """
    ray = needs("ray", "ray")
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    needs("ray.data", "ray")  # which sets up its logging
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, too
    try:
        if address and (place := _PLACE.fullmatch(address)):  # ray.init would try for minutes
            socket.create_connection((place["host"], int(place["port"])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(f"no Ray at {address!r} ({error}); expected 'local', 'auto' or HOST:PORT.") from error


class RayJobError(SclipError, RuntimeError):
    """What ended a worker of Ray, in its own words."""


@contextlib.contextmanager
def in_a_sentence() -> Iterator[None]:
    """Errors that workers raised, without the traces that Ray puts around them.

    Raises:
        SclipError: the worker's own, or a `RayJobError` with the last line of what it said.
    """
    ray = needs("ray", "ray")
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while isinstance(inner := getattr(cause, "cause", None), BaseException):
            cause = inner
        if isinstance(cause, SclipError) and not isinstance(cause, ray.exceptions.RayError):
            raise cause from error
        last = [line.strip() for line in str(cause).splitlines() if line.strip()][-1:] or [type(cause).__name__]
        raise RayJobError(f"a worker of Ray ended: {_EXCEPTION.sub('', last[0])}") from error


def rooted(value: Any) -> Any:
    """Text that names something on disk as an absolute path, so that workers find it from where they are."""
    return os.path.abspath(value) if isinstance(value, str) and value and os.path.exists(value) else value


def rooted_model(name: str) -> str:
    """The same of a model's name, but for the demo's."""
    arch, at, file = name.partition("@")
    return name if name == "demo" else f"{arch}@{rooted(file)}" if at else rooted(name)


def rooted_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of settings, with absolute paths for all files and folders that they name."""
    made: dict[str, Callable[[Any], Any]] = {
        "method": lambda value: make_method(value).with_absolute_paths(),
        "masks": lambda value: find_masks(value).with_absolute_paths(),
        "steps": lambda value: tuple(make_step(step).with_absolute_paths() for step in listed(value)),
        "refine": lambda value: make_step(value).with_absolute_paths() if isinstance(value, str) else value,
        "present": lambda value: absolute(value) if isinstance(value, str) else value,
    }
    out = {}
    for name, value in changes.items():
        if name in made and value is not None:
            out[name] = made[name](value)
        else:  # an option of the method may name a file
            out[name] = absolute(value) if isinstance(value, str) and name not in setting_names() else value
    return out


def workers_of(device: str | None, workers: int | None = None, spare: int = 0) -> tuple[int, dict[str, Any], str]:
    """How many workers there shall be, what each takes, and its device.

    Args:
        device: "cpu" keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none. More than there are GPUs share
            them.
        spare: processors that are left to others, where there are more than these.

    Raises:
        SettingError: fewer are left to others with that many workers, who would wait for ever; less than one worker;
            another device than "cpu" or "cuda", or "cuda" where there are no GPUs.
    """
    if workers is not None and workers < 1:
        raise SettingError(f"workers={workers}; expected 1 or more.")
    has = needs("ray", "ray").cluster_resources()
    gpus, processors = int(has.get("GPU", 0)), int(has.get("CPU", 1))
    if device not in (None, "auto", "cpu", "cuda") or (device == "cuda" and not gpus):
        raise SettingError(
            f"device={device!r} on a cluster of {processors} processors and {gpus} GPUs; expected 'cpu' or 'cuda', "
            "where it has GPUs, or none: Ray says which GPU is whose."
        )
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
