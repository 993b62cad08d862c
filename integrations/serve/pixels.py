"""How many pixels are decoded at one time: the memory of a server is bounded by them, not by the bytes of requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from .queueing import Busy
from .visitors import Limits


class PixelRoom:
    """A room that holds so many pixels; who does not fit waits outside, in the order of coming.

    A picture that is larger than the whole room enters when the room is empty. It belongs to one event loop.

    Args:
        limits: ``decoded_megapixels``, and what may wait, and for how long.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inside = 0
        self._outside: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, pixels: int) -> AsyncIterator[list[Future[Any]]]:
        """Hold room for so many pixels.

        Yields:
            A list. The room is held until the futures that are put into it have ended, even if nobody waits for them
            any more.

        Raises:
            Busy: too much is waiting, or the turn does not come in time.
        """
        await self._enter(pixels)
        work: list[Future[Any]] = []
        try:
            yield work
        finally:
            left = [asyncio.wrap_future(future) for future in work if not future.done()]
            if left:
                loop = asyncio.get_running_loop()
                asyncio.gather(*left, return_exceptions=True).add_done_callback(
                    lambda _: loop.call_soon(self._leave, pixels)
                )
            else:
                self._leave(pixels)

    async def _enter(self, pixels: int) -> None:
        if not self._outside and self._fits(pixels):
            self._inside += pixels
            return
        waiting = sum(count for count, _ in self._outside)
        limits = self._limits
        if len(self._outside) >= limits.waiting or waiting + pixels > limits.waiting_megapixels * 1e6:
            raise Busy(f"{len(self._outside)} requests are waiting; ask again in a moment.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outside.append((pixels, turn))
        try:
            await asyncio.wait_for(turn, limits.seconds)
        except (asyncio.CancelledError, asyncio.TimeoutError) as error:
            if turn.done() and not turn.cancelled():  # let in at the same moment
                self._leave(pixels)
            else:
                self._outside.remove((pixels, turn))
                self._let_in()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Busy(f"no turn within {limits.seconds:g} seconds; ask again in a moment.") from None

    def _leave(self, pixels: int) -> None:
        self._inside -= pixels
        self._let_in()

    def _let_in(self) -> None:
        while self._outside and self._fits(self._outside[0][0]):
            pixels, turn = self._outside.popleft()
            self._inside += pixels
            turn.set_result(None)

    def _fits(self, pixels: int) -> bool:
        return self._inside == 0 or self._inside + pixels <= self._limits.decoded_megapixels * 1e6
