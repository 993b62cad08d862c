"""The front door: ports in use, requests that never arrive, too many connections; and the pixels inside."""

import asyncio
import socket
import threading
import time
from concurrent.futures import Future

import pytest
from typer.testing import CliRunner

from sclip_plugin.cli.program import app as program
from sclip_plugin.errors import SclipError

pytest.importorskip("fastapi")
from sclip_plugin.integrations.serve import Limits  # noqa: E402
from sclip_plugin.integrations.serve.door import BoundedServer, PortError, bound_socket  # noqa: E402
from sclip_plugin.integrations.serve.pixels import PixelRoom  # noqa: E402
from sclip_plugin.integrations.serve.queueing import Busy  # noqa: E402
from sclip_plugin.integrations.serve.visitors import Kept  # noqa: E402

QUICK = Limits(silent_seconds=0.3, upload_seconds=0.8, connections=8)


async def echo(scope, receive, send):
    """Answers the length of what was sent."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message["body"]), message["more_body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(length)))]}
    )
    await send({"type": "http.response.body", "body": str(length).encode()})


@pytest.fixture(scope="module")
def address():
    with bound_socket("127.0.0.1", 0) as bound:
        server = BoundedServer(echo, QUICK)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield bound.getsockname()
        server.should_exit = True
        thread.join()


def sent(address, *parts, pause=0.0):
    """What comes back until the server closes, and after how many seconds."""
    start = time.monotonic()
    with socket.create_connection(address, timeout=20) as client:
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            answer = b""
            while data := client.recv(4096):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            answer = b"closed"
        return answer, time.monotonic() - start


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"POST / HT",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
    ],
)
def test_requests_that_stay_incomplete_are_closed(address, half):
    answer, seconds = sent(address, half)
    assert b"408" in answer and 0.2 < seconds < 5


def test_requests_that_drip_are_closed(address):
    answer, seconds = sent(
        address, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n", *[b"a"] * 40, pause=0.1
    )
    assert (b"408" in answer or answer == b"closed") and seconds < 5


def test_requests_that_arrive_in_parts_are_answered(address):
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"
    answer, _ = sent(address, head[:20], head[20:], b"ab", b"cd", pause=0.1)
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n4")


def test_more_connections_than_allowed_are_refused(address):
    open_ones = [socket.create_connection(address, timeout=20) for _ in range(QUICK.connections + 4)]
    refused = sum(b"503" in connection.recv(4096) for connection in open_ones[QUICK.connections :])
    for connection in open_ones:
        connection.close()
    assert refused == 4


@pytest.mark.parametrize("command", ["serve", "app"])
def test_a_port_in_use_is_said_before_a_model_is_loaded(command):
    if command == "app":
        pytest.importorskip("gradio", reason="the page is the extra 'app', which CI installs")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(program, [command, "--model", "no/such-model", "--port", str(port)])
    assert isinstance(result.exception, PortError) and isinstance(result.exception, SclipError)
    assert str(port) in str(result.exception) and "--port" in str(result.exception)


def test_the_room_lets_in_by_pixels_in_order_and_refuses_what_is_too_much():
    limits = Limits(decoded_megapixels=10, waiting=3, waiting_megapixels=25)

    async def scenario():
        room, order = PixelRoom(limits), []

        async def visit(name, megapixels, seconds):
            async with room.holding(megapixels * 10**6):
                order.append(name)
                await asyncio.sleep(seconds)

        sizes = [("a", 6, 0.1), ("b", 4, 0.5), ("huge", 20, 0.1), ("small", 1, 0.1), ("c", 4, 0.0)]
        visits = [asyncio.create_task(visit(*size)) for size in sizes]
        await asyncio.sleep(0.05)
        assert order == ["a", "b"]
        with pytest.raises(Busy, match="3 requests"):
            await visit("fourth", 0, 0)
        visits[4].cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="2 requests"):
            await visit("large", 5, 0)
        await asyncio.sleep(0.12)
        assert order == ["a", "b"], "a small picture does not overtake a large one"
        await asyncio.gather(*visits, return_exceptions=True)
        assert order == ["a", "b", "huge", "small"]

    asyncio.run(scenario())


def test_who_waits_too_long_for_a_turn_is_told_so_and_the_next_one_comes_in():
    async def scenario():
        room = PixelRoom(Limits(decoded_megapixels=1, seconds=0.1))

        async def visit(megapixels, seconds):
            async with room.holding(int(megapixels * 1e6)):
                await asyncio.sleep(seconds)
                return "in"

        first = asyncio.create_task(visit(0.5, 0.4))
        await asyncio.sleep(0)
        late = asyncio.create_task(visit(1, 0))
        await asyncio.sleep(0.05)
        behind = asyncio.create_task(visit(0.5, 0))
        with pytest.raises(Busy, match="0.1 seconds"):
            await late
        assert await behind == "in" and not first.done()
        assert await first == "in"

    asyncio.run(scenario())


def test_the_room_is_held_while_abandoned_work_goes_on():
    async def scenario():
        room, work = PixelRoom(Limits(decoded_megapixels=1)), Future()

        async def abandoned():
            async with room.holding(10**6) as held:
                work.set_running_or_notify_cancel()
                held.append(work)
                await asyncio.wrap_future(work)

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(abandoned(), 0.05)

        async def later():
            async with room.holding(10**6):
                return "in"

        waiting = asyncio.create_task(later())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        work.set_result(None)
        assert await asyncio.wait_for(waiting, 5) == "in"

    asyncio.run(scenario())


def test_encoded_pictures_are_kept_by_number_and_by_pixels():
    class Seen:
        def __init__(self, megapixels):
            self.size = (megapixels * 1000, 1000)

    kept = Kept(Limits(kept=3, kept_megapixels=10))
    for name, megapixels in (("a", 4), ("b", 4), ("c", 1)):
        kept.add(name, Seen(megapixels))
    assert kept.get("a") is not None  # now the last one used
    kept.add("d", Seen(1))
    assert kept.get("b") is None and len(kept) == 3
    kept.add("e", Seen(30))
    assert kept.get("e") is not None and len(kept) == 1
