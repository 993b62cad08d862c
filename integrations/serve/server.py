"""The HTTP interface: pictures and words in, JSON out. No path and no URL that a visitor sends is ever opened."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from sclip_plugin import __version__
from sclip_plugin.errors import SclipError
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter

from .answers import as_json
from .queueing import Busy, Job, TowerQueue
from .visitors import Limits, picture_of, words_of


class _Kept:
    """Encoded pictures by ids that nobody can guess."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pictures: OrderedDict[str, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, encoded: Encoded) -> str:
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._pictures[name] = encoded
            while len(self._pictures) > self._most:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Encoded:
        with self._lock:
            if name not in self._pictures:
                raise HTTPException(404, "no such encoded picture, or not any more; POST it to /encode again.")
            self._pictures.move_to_end(name)
            return self._pictures[name]


Masks = Annotated[Literal["rle", "png", "none"], Form(description="COCO run lengths, one PNG of indices, or none.")]
Words = Annotated[str, Form(description="Names between commas; '|' joins synonyms: \"cat, sofa|couch\".")]
Upload = Annotated[UploadFile, File(description="The picture's bytes.")]


def make_server(segmenter: Segmenter, limits: Limits | None = None) -> FastAPI:
    """The app: ``POST /segment``, ``POST /encode``, ``POST /ask/{id}``, ``GET /health``, and ``/docs``.

    Args:
        segmenter: asked by one thread; let nobody else use it meanwhile.
        limits: what a visitor may ask for.
    """
    bounds = limits or Limits()
    kept = _Kept(bounds.kept)
    tower = TowerQueue(segmenter, bounds.together, bounds.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(tower.close)

    app = FastAPI(title="sclip", version=__version__, lifespan=lifespan)

    @app.middleware("http")
    async def bounded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return JSONResponse({"detail": "a request without Content-Length is not read."}, 411)
            if int(length) > bounds.megabytes * 1e6:
                return JSONResponse({"detail": f"a request may have {bounds.megabytes:g} MB."}, 413)
        return await answer(request)

    @app.exception_handler(SclipError)
    async def mistake(request: Request, error: SclipError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503 if isinstance(error, Busy) else 422)

    async def answered(job: Job) -> Any:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(tower.put(job)), bounds.seconds)
        except asyncio.TimeoutError:
            raise HTTPException(504, f"no answer within {bounds.seconds:g} seconds.") from None

    @app.post("/segment")
    async def segment(picture: Upload, labels: Words, masks: Masks = "rle") -> dict[str, Any]:
        """Segment a picture by these labels."""
        words = words_of(labels, bounds)
        rgb = await run_in_threadpool(picture_of, await picture.read(), bounds)
        result = await answered(Job(segmenter.settings, picture=rgb, labels=words))
        return await run_in_threadpool(as_json, result, masks)

    @app.post("/encode")
    async def encode(picture: Upload) -> dict[str, Any]:
        """Look at a picture once, to ask about it many times."""
        rgb = await run_in_threadpool(picture_of, await picture.read(), bounds)
        encoded = await answered(Job(segmenter.settings, picture=rgb))
        return {"id": kept.add(encoded), "size": list(encoded.size)}

    @app.post("/ask/{name}")
    async def ask(name: str, labels: Words, masks: Masks = "rle") -> dict[str, Any]:
        """Segment a picture that was encoded."""
        encoded = kept.get(name)
        result = await answered(Job(segmenter.settings, encoded=encoded, labels=words_of(labels, bounds)))
        return await run_in_threadpool(as_json, result, masks)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__, "method": segmenter.settings.method_name}

    return app


def run(segmenter: Segmenter, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serve until stopped."""
    import uvicorn

    uvicorn.run(make_server(segmenter, limits), host=host, port=port, log_level="warning")
