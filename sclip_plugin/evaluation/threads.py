"""Work that is done ahead of whoever asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def map_ahead(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """``map`` in threads, in order, working a few items ahead of the consumer so that memory stays bounded."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[B]] = deque()
        iterator = iter(items)
        try:
            for item in iterator:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
