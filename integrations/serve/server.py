"""The HTTP interface: pictures and words in, JSON out. No path and no URL that a visitor sends is ever opened."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from sclip_plugin import __version__
from sclip_plugin.errors import SclipError
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.text.wordlist import AUTO, auto_of

from .answers import EncodeAnswer, HealthAnswer, MaskFormat, NamesAnswer, SegmentAnswer, as_json
from .describing import about, page_of, refusals
from .door import HostGuard, listen
from .forms import KnownFields, LabelFields, MaskFormatField, NamesFields, Picture, TopField, sentence_of
from .pixels import PixelRoom
from .queueing import Busy, Job, TowerQueue
from .visitors import Kept, Limits, check_size, labels_of, picture_of, size_of

THREADS = 4
"""Threads that decode pictures and write answers, beside the one that owns the model."""


class Service:
    """Answers questions about pictures, within limits.

    Args:
        segmenter: asked by one thread; let nobody else use it meanwhile.
        limits: what a visitor may ask for.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits) -> None:
        self.segmenter, self.limits = segmenter, limits
        self.kept = Kept(limits)
        self.tower = TowerQueue(segmenter, limits.together, limits.waiting)
        self._room = PixelRoom(limits)
        self._threads = ThreadPoolExecutor(THREADS, "sclip pictures")

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        self.tower.close()
        self._threads.shutdown()

    async def segment(self, upload: UploadFile, labels: list[str], mask_format: MaskFormat) -> dict[str, Any]:
        """The answer to ``POST /segment``."""
        words = labels_of(labels, self.limits)
        return await self._answer(upload, words, lambda result: as_json(result, mask_format))

    async def encode(self, upload: UploadFile) -> dict[str, Any]:
        """The answer to ``POST /encode``."""
        encoded = await self._answer(upload, None, lambda encoded: encoded)
        name = secrets.token_urlsafe(16)
        self.kept.add(name, encoded)
        return {"id": name, "size": list(encoded.size)}

    async def ask(self, name: str, labels: list[str], mask_format: MaskFormat) -> dict[str, Any]:
        """The answer to ``POST /ask/{name}``."""
        encoded = self.kept.get(name)
        if encoded is None:
            raise HTTPException(404, "no such encoded picture, or not any more; POST it to /encode again.")
        words = labels_of(labels, self.limits)
        return await self._answer(encoded, words, lambda result: as_json(result, mask_format))

    async def names(self, upload: UploadFile, labels: list[str], top: int) -> dict[str, Any]:
        """The answer to ``POST /names``."""
        auto = auto_of(labels_of(labels, self.limits))
        return {"names": await self._answer(upload, auto, lambda names: [asdict(name) for name in names], top)}

    async def _answer(
        self, source: UploadFile | Encoded, words: Any, made: Callable[[Any], Any], names: int = 0
    ) -> Any:
        """What is made of the tower's answer; the picture is decoded, asked and answered within the room."""
        if isinstance(source, Encoded):
            height, width = source.size
        else:
            width, height = size = await run_in_threadpool(size_of, source.file)
            check_size(size, self.limits)
        seconds = self.limits.seconds
        async with self._room.holding(width * height) as work:
            try:
                return await asyncio.wait_for(
                    self._work(source, Job(self.segmenter.settings, labels=words, names=names), made, work), seconds
                )
            except asyncio.TimeoutError:
                raise HTTPException(504, f"no answer within {seconds:g} seconds.") from None

    async def _work(
        self, source: UploadFile | Encoded, job: Job, made: Callable[[Any], Any], work: list[Future[Any]]
    ) -> Any:
        async def ended(future: Future[Any]) -> Any:
            work.append(future)
            return await asyncio.wrap_future(future)

        if isinstance(source, Encoded):
            job.encoded = source
        else:
            job.picture = await ended(self._threads.submit(picture_of, await source.read(), self.limits))
        return await ended(self._threads.submit(made, await ended(self.tower.put(job))))


def make_server(segmenter: Segmenter, limits: Limits | None = None, allow_hosts: Iterable[str] = ()) -> FastAPI:
    """The app: ``POST /segment``, ``/encode``, ``/ask/{name}`` and ``/names``, ``GET /health``, and ``/docs``.

    Args:
        segmenter: asked by one thread; let nobody else use it meanwhile.
        limits: what a visitor may ask for.
        allow_hosts: host names that are answered, beside localhost and the address that was connected to.
    """
    bounds = limits or Limits()
    service = Service(segmenter, bounds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="sclip", version=__version__, description=about(bounds), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _refuse(app, bounds)
    app.add_middleware(HostGuard, names=allow_hosts)

    @app.post(
        "/segment",
        responses=refusals(SegmentAnswer),
        dependencies=[Depends(KnownFields("picture", "labels", "mask_format"))],
    )
    async def segment(picture: Picture, labels: LabelFields, mask_format: MaskFormatField = "rle") -> Response:
        """Segment a picture by these labels."""
        return JSONResponse(await service.segment(picture, labels, mask_format))

    @app.post("/encode", responses=refusals(EncodeAnswer), dependencies=[Depends(KnownFields("picture"))])
    async def encode(picture: Picture) -> Response:
        """Look at a picture once, to ask about it many times."""
        return JSONResponse(await service.encode(picture))

    @app.post(
        "/ask/{name}",
        responses=refusals(SegmentAnswer, 404),
        dependencies=[Depends(KnownFields("labels", "mask_format"))],
    )
    async def ask(name: str, labels: LabelFields, mask_format: MaskFormatField = "rle") -> Response:
        """Segment a picture that was encoded."""
        return JSONResponse(await service.ask(name, labels, mask_format))

    @app.post(
        "/names", responses=refusals(NamesAnswer), dependencies=[Depends(KnownFields("picture", "labels", "top"))]
    )
    async def names(picture: Picture, labels: NamesFields = None, top: TopField = 20) -> Response:
        """Say what is in a picture, without a vocabulary."""
        return JSONResponse(await service.names(picture, labels or [AUTO], top))

    @app.get("/health", responses={200: {"model": HealthAnswer}})
    async def health() -> Response:
        """Whether the server is there."""
        method = segmenter.settings.method_name
        return JSONResponse({"status": "ok", "version": __version__, "method": method})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()))

    return app


def _refuse(app: FastAPI, bounds: Limits) -> None:
    """Give all refusals one form: a sentence in ``detail``."""

    @app.middleware("http")
    async def bounded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return JSONResponse({"detail": "a request without Content-Length is not read."}, 411)
            if int(length) > bounds.megabytes * 1e6:
                return JSONResponse({"detail": f"a request may have {bounds.megabytes:g} MB."}, 413)
        return await answer(request)

    @app.exception_handler(RequestValidationError)
    async def misspelt(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence_of(error)}, 422)

    @app.exception_handler(SclipError)
    async def mistake(request: Request, error: SclipError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503 if isinstance(error, Busy) else 422)

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the server failed; its log says why."}, 500)


def run(
    segmenter: Segmenter,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    allow_hosts: Iterable[str] = (),
) -> None:
    """Serve until the program is stopped.

    Raises:
        PortError: the port can't be listened at.
    """
    bounds = limits or Limits()
    listen(make_server(segmenter, bounds, allow_hosts), host, port, bounds)
