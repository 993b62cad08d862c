"""The HTTP interface: pictures and words in, JSON out. No path and no URL that a visitor sends is ever opened."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from sclip_plugin import __version__
from sclip_plugin.errors import SclipError
from sclip_plugin.examples.base import Examples
from sclip_plugin.examples.folders import example_of
from sclip_plugin.examples.learning import Learnt, learn
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.segment.tuning import taught_by
from sclip_plugin.text.labels import parse_labels
from sclip_plugin.text.wordlist import AUTO, auto_of

from .answers import (
    EncodeAnswer,
    HealthAnswer,
    MaskFormat,
    NamesAnswer,
    SegmentAnswer,
    TuneAnswer,
    as_json,
    learnt_as_json,
)
from .describing import about, page_of, refusals
from .door import HostGuard, listen
from .forms import (
    KnownFields,
    LabelFields,
    MaskFormatField,
    Masks,
    NamesFields,
    Picture,
    Pictures,
    TopField,
    TunedField,
    sentence_of,
)
from .pixels import PixelRoom
from .queueing import Busy, Job, TowerQueue
from .visitors import Kept, Limits, check_size, labels_of, picture_of, size_of, words_of

Ended = Callable[["Future[Any]"], Awaitable[Any]]
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
        self.kept, self.tuned = Kept(limits), Kept(limits)
        self.tower = TowerQueue(segmenter, limits.together, limits.waiting)
        self._room = PixelRoom(limits)
        self._threads = ThreadPoolExecutor(THREADS, "sclip pictures")

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        self.tower.close()
        self._threads.shutdown()

    async def segment(
        self, upload: UploadFile, labels: list[str], mask_format: MaskFormat, tuned: str | None = None
    ) -> dict[str, Any]:
        """The answer to ``POST /segment``."""
        words = self._words(labels, tuned)
        return await self._answer(upload, words, lambda result: as_json(result, mask_format))

    async def encode(self, upload: UploadFile) -> dict[str, Any]:
        """The answer to ``POST /encode``."""
        encoded = await self._answer(upload, None, lambda encoded: encoded)
        name = secrets.token_urlsafe(16)
        self.kept.add(name, encoded)
        return {"id": name, "size": list(encoded.size)}

    async def ask(
        self, name: str, labels: list[str], mask_format: MaskFormat, tuned: str | None = None
    ) -> dict[str, Any]:
        """The answer to ``POST /ask/{name}``."""
        encoded = self.kept.get(name)
        if encoded is None:
            raise HTTPException(404, "no such encoded picture, or not any more; POST it to /encode again.")
        words = self._words(labels, tuned)
        return await self._answer(encoded, words, lambda result: as_json(result, mask_format))

    async def names(self, upload: UploadFile, labels: list[str], top: int) -> dict[str, Any]:
        """The answer to ``POST /names``."""
        auto = auto_of(labels_of(labels, self.limits))
        return {"names": await self._answer(upload, auto, lambda names: [asdict(name) for name in names], top)}

    async def tune(self, pictures: list[UploadFile], masks: list[UploadFile], labels: list[str]) -> dict[str, Any]:
        """The answer to ``POST /tune``."""
        words, limits, pixels = words_of(labels, self.limits), self.limits, 0
        if len(pictures) != len(masks) or len(pictures) > limits.examples:
            raise HTTPException(
                422,
                f"{len(pictures)} pictures and {len(masks)} masks; expected a mask for each picture, and at most "
                f"{limits.examples} of both.",
            )
        for upload in (*pictures, *masks):
            width, height = size = await run_in_threadpool(size_of, upload.file)
            check_size(size, limits)
            pixels += width * height
        if pixels > limits.examples_megapixels * 1e6:
            raise HTTPException(
                422,
                f"pictures and masks have {pixels:,} pixels; expected at most {limits.examples_megapixels:g} million.",
            )

        async def work(ended: Ended) -> Any:
            files = [
                (await picture.read(), await mask.read(), picture.filename or f"picture {place}")
                for place, (picture, mask) in enumerate(zip(pictures, masks, strict=True), start=1)
            ]

            def call(segmenter: Segmenter) -> Learnt:
                names = [names[0] for names in words]
                items = [example_of(picture, mask, names, name) for picture, mask, name in files]
                return learn(segmenter, Examples("PNG masks", names, items), words)

            return await ended(self.tower.put(Job(self.segmenter.settings, call=call)))

        learnt = await self._within(pixels, work)
        name = secrets.token_urlsafe(16)
        self.tuned.add(name, replace(learnt.tuned, cells=None))
        return learnt_as_json(name, learnt)

    def _words(self, labels: list[str], tuned: str | None) -> Any:
        """What a visitor asks for: words, names of the picture, or what was learnt of words."""
        if tuned is None:
            return labels_of(labels, self.limits)
        known = self.tuned.get(tuned)
        if known is None:
            raise HTTPException(404, "no such tuned labels, or not any more; POST the examples to /tune again.")
        return taught_by(known, parse_labels(words_of(labels, self.limits)))

    async def _answer(
        self, source: UploadFile | Encoded, words: Any, made: Callable[[Any], Any], names: int = 0
    ) -> Any:
        """What is made of the tower's answer; the picture is decoded, asked and answered within the room."""
        if isinstance(source, Encoded):
            height, width = source.size
        else:
            width, height = size = await run_in_threadpool(size_of, source.file)
            check_size(size, self.limits)

        async def work(ended: Ended) -> Any:
            job = Job(self.segmenter.settings, labels=words, names=names)
            if isinstance(source, Encoded):
                job.encoded = source
            else:
                job.picture = await ended(self._threads.submit(picture_of, await source.read(), self.limits))
            return await ended(self._threads.submit(made, await ended(self.tower.put(job))))

        return await self._within(width * height, work)

    async def _within(self, pixels: int, work: Callable[[Ended], Awaitable[Any]]) -> Any:
        """What work gives that waits for a turn in the room, and then has so many seconds.

        It awaits futures by ``ended``, and holds its place until all of these have ended.
        """
        seconds = self.limits.seconds
        async with self._room.holding(pixels) as under_way:

            async def ended(future: Future[Any]) -> Any:
                under_way.append(future)
                return await asyncio.wrap_future(future)

            try:
                return await asyncio.wait_for(work(ended), seconds)
            except asyncio.TimeoutError:
                raise HTTPException(504, f"no answer within {seconds:g} seconds.") from None


def make_server(segmenter: Segmenter, limits: Limits | None = None, allow_hosts: Iterable[str] = ()) -> FastAPI:
    """The app: ``POST /segment``, ``/encode``, ``/ask/{name}``, ``/names``, ``/tune``, ``GET /health``, ``/docs``.

    Args:
        segmenter: asked by one thread; let nobody else use it meanwhile.
        limits: what a visitor may ask for.
        allow_hosts: host names that are answered, beside localhost and the address that was connected to.
    """
    service = Service(segmenter, bounds := limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    said: dict[str, Any] = {"title": "sclip", "version": __version__, "description": about(bounds)}
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, **said)
    _refuse(app, bounds)
    app.add_middleware(HostGuard, names=allow_hosts)

    @app.post(
        "/segment",
        responses=refusals(SegmentAnswer, 404),
        dependencies=_fields("picture", "labels", "mask_format", "tuned"),
    )
    async def segment(
        picture: Picture, labels: LabelFields, mask_format: MaskFormatField = "rle", tuned: TunedField = None
    ) -> Response:
        """Segment a picture by these labels."""
        return JSONResponse(await service.segment(picture, labels, mask_format, tuned or None))

    @app.post("/encode", responses=refusals(EncodeAnswer), dependencies=_fields("picture"))
    async def encode(picture: Picture) -> Response:
        """Look at a picture once, to ask about it many times."""
        return JSONResponse(await service.encode(picture))

    @app.post(
        "/ask/{name}", responses=refusals(SegmentAnswer, 404), dependencies=_fields("labels", "mask_format", "tuned")
    )
    async def ask(
        name: str, labels: LabelFields, mask_format: MaskFormatField = "rle", tuned: TunedField = None
    ) -> Response:
        """Segment a picture that was encoded."""
        return JSONResponse(await service.ask(name, labels, mask_format, tuned or None))

    @app.post("/tune", responses=refusals(TuneAnswer), dependencies=_fields("pictures", "masks", "labels"))
    async def tune(pictures: Pictures, masks: Masks, labels: LabelFields) -> Response:
        """Learn labels from a few annotated pictures; later questions name them by the answer's `id`."""
        return JSONResponse(await service.tune(pictures, masks, labels))

    @app.post("/names", responses=refusals(NamesAnswer), dependencies=_fields("picture", "labels", "top"))
    async def names(picture: Picture, labels: NamesFields = None, top: TopField = 20) -> Response:
        """Say what is in a picture, without a vocabulary."""
        return JSONResponse(await service.names(picture, labels or [AUTO], top))

    @app.get("/health", responses={200: {"model": HealthAnswer}})
    async def health() -> Response:
        """Whether the server is there."""
        said = {"status": "ok", "version": __version__, "method": segmenter.settings.method_name}
        return JSONResponse(said)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()))

    return app


def _fields(*names: str) -> list[Any]:
    return [Depends(KnownFields(*names))]


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
