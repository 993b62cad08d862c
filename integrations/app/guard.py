"""What of gradio's API a visitor of the page may use, and which files it may name.

Gradio takes a file's path from whoever calls its API. It checks the path only if the record has ``meta``, and fetches
the path if it is an address. It also answers requests that the page never makes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sclip_plugin.errors import PictureError

QUESTION_BYTES = 2**20
"""Longest question of the page to its server; pictures are uploaded apart."""
FILE, ASK = "/gradio_api/file=", "/gradio_api/queue/join"
ROUTES = re.compile(
    r"GET /(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|(assets|static|svelte)/.*)?"
    r"|GET /gradio_api/(startup-events|heartbeat/\w+|queue/data|upload_progress)"
    rf"|(GET|HEAD) {FILE}.*"
    rf"|POST (/gradio_api/(upload|cancel|reset)|{ASK})"
)
"""What the page asks for in a browser."""


def uploaded(path: Any, uploads: str) -> Path:
    """The path of a file that gradio keeps for this page's visitors.

    Args:
        path: as a visitor names it.
        uploads: the folder where gradio keeps what was uploaded, and what it shows.

    Raises:
        PictureError: the path leads elsewhere, or to no ordinary file.
    """
    refusal = PictureError("the file was not uploaded to this page; expected a file that was.")
    if not isinstance(path, str):
        raise refusal
    try:
        real = os.path.realpath(path, strict=True)
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError) as error:
        raise refusal from error
    if not is_file or not Path(real).is_relative_to(os.path.realpath(uploads)):
        raise refusal
    return Path(real)


class PageGuard:
    """ASGI middleware that passes on what `ROUTES` names, if all files in it are `uploaded` ones.

    Args:
        app: gradio's application.
        uploads: the folder where gradio keeps what was uploaded.
    """

    def __init__(self, app: ASGIApp, uploads: str) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        path = scope["path"]
        if scope["type"] != "http" or not ROUTES.fullmatch(f"{scope['method']} {path}"):
            return await _refused(404, "the page has no such address.")(scope, receive, send)
        try:
            if path.startswith(FILE):
                uploaded(path.removeprefix(FILE), self.uploads)
            elif path == ASK:
                receive = await self._checked(receive)
        except PictureError as error:
            return await _refused(403, str(error))(scope, receive, send)
        except (ValueError, RecursionError) as error:
            return await _refused(422, f"the question can't be read: {error}")(scope, receive, send)
        await self.app(scope, receive, send)

    async def _checked(self, receive: Receive) -> Receive:
        """What gives a question's body again, once all of its files are known to be uploaded ones."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > QUESTION_BYTES:
                raise ValueError(f"it is longer than {QUESTION_BYTES} bytes.")
        for path in _paths(json.loads(body)):
            uploaded(path, self.uploads)
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return again


def _paths(value: Any) -> Iterator[Any]:
    """The paths of all file records in a question."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _paths(entry)


def _refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)
