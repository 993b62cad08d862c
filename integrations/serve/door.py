"""The front door of ``sclip serve`` and ``sclip app``: the port, the names it answers to, and how long it waits."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sclip_plugin.errors import SclipError

from .visitors import Limits

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
STOP_SECONDS = 3
"""How long answers may still be sent after Ctrl-C."""


class PortError(SclipError, OSError):
    """A port that can't be listened at."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address, not yet listening.

    Raises:
        PortError: another program listens there, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two programs share the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            bound.listen()  # Linux lets several sockets bind that do not listen
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise PortError(
            f"can't listen at {host}, port {port}: {reason}. Choose another port with --port, or another address with "
            "--host."
        ) from error
    return bound


def check_port(host: str, port: int) -> None:
    """Raise the `PortError` of a port before a model is loaded."""
    bound_socket(host, port).close()


class HostGuard:
    """ASGI middleware against DNS rebinding: a web page elsewhere can point a name of its own at this machine.

    A request is answered if its Host header is ``localhost``, the address that it was sent to, or an allowed name.

    Args:
        app: the application behind it.
        names: more names that are allowed, without ports; ``"*"`` allows all.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in (*LOCAL_NAMES, *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or "*" in self.names:
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).getlist("host")
        if len(given) == 1 and self._is_allowed(given[0], scope):
            return await self.app(scope, receive, send)
        sentence = (
            f"the Host header is {', '.join(given)[:200]!r}; expected localhost or an allowed name. "
            "Whoever starts the server allows more names with --allow-host NAME."
        )
        await JSONResponse({"detail": sentence}, 400)(scope, receive, send)

    def _is_allowed(self, given: str, scope: Scope) -> bool:
        try:
            name = urlsplit(f"//{given}").hostname
        except ValueError:
            return False
        reached = scope.get("server") or ("", 0)
        return name is not None and (name in self.names or name == str(reached[0]).lower())


class BoundedConnection(H11Protocol):
    """A connection that is closed if its request does not arrive in time, or if too many are open.

    uvicorn limits only the time between two requests; a request that stays incomplete would be held forever.
    """

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._started = self.loop.time()
        if len(self.connections) > self._limits.connections:
            self._refuse(b"503 Service Unavailable", f"more than {self._limits.connections} connections are open")
        else:
            self._set_timer()

    def data_received(self, data: bytes) -> None:
        if self._timer is None:  # the first bytes of a request
            self._started = self.loop.time()
        super().data_received(data)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _set_timer(self) -> None:
        self._stop_timer()
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            now = self.loop.time()
            left = min(self._limits.silent_seconds, self._started + self._limits.upload_seconds - now)
            self._timer = self.loop.call_later(max(0, left), self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.flow.read_paused:  # it is the application that has not read yet
            return self._set_timer()
        self._refuse(b"408 Request Timeout", "the request did not arrive in time")

    def _refuse(self, status: bytes, sentence: str) -> None:
        if self.cycle is None or not self.cycle.response_started:
            body = b'{"detail":"%s."}' % sentence.encode()
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


class BoundedServer(uvicorn.Server):
    """A server of `BoundedConnection`.

    It is stopped by closing its connections: a page in a browser would keep one open forever.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        connection: Any = partial(BoundedConnection, limits=limits)
        super().__init__(uvicorn.Config(app, http=connection, ws="none", log_level="warning"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        def cut() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]

        asyncio.get_running_loop().call_later(STOP_SECONDS, cut)
        await super().shutdown(sockets)


def listen(app: ASGIApp, host: str, port: int, limits: Limits) -> None:
    """Serve an application until the program is stopped by Ctrl-C or SIGTERM, which raises `SystemExit`.

    Raises:
        PortError: the port can't be listened at.
    """
    if threading.current_thread() is threading.main_thread():  # so that callers' temporary files go
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with bound_socket(host, port) as bound:
        BoundedServer(app, limits).run(sockets=[bound])
