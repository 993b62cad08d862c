"""The HTTP interface: pictures and words in, JSON out. No path and no URL that a visitor sends is ever opened."""

from __future__ import annotations

import asyncio
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import PIL.Image
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from sclip_plugin import __version__
from sclip_plugin.errors import LabelError, PictureError, SclipError
from sclip_plugin.imaging.pictures import read_picture
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.text.files import split_labels

from .answers import as_json
from .queueing import Busy, Job, TowerQueue


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        megabytes: of a request.
        megapixels: of a picture.
        names: in a question, synonyms too.
        characters: in a name.
        kept: encoded pictures; the least recently asked goes first.
        waiting: requests that wait for the model; more are answered 503.
        together: pictures that go through the tower at once.
        seconds: until an answer is 504.
    """

    megabytes: float = 20
    megapixels: float = 24
    names: int = 200
    characters: int = 100
    kept: int = 32
    waiting: int = 64
    together: int = 16
    seconds: float = 60


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
        words = _words(labels, bounds)
        rgb = await run_in_threadpool(_picture, await picture.read(), bounds)
        result = await answered(Job(segmenter.settings, picture=rgb, labels=words))
        return await run_in_threadpool(as_json, result, masks)

    @app.post("/encode")
    async def encode(picture: Upload) -> dict[str, Any]:
        """Look at a picture once, to ask about it many times."""
        rgb = await run_in_threadpool(_picture, await picture.read(), bounds)
        encoded = await answered(Job(segmenter.settings, picture=rgb))
        return {"id": kept.add(encoded), "size": list(encoded.size)}

    @app.post("/ask/{name}")
    async def ask(name: str, labels: Words, masks: Masks = "rle") -> dict[str, Any]:
        """Segment a picture that was encoded."""
        encoded = kept.get(name)
        result = await answered(Job(segmenter.settings, encoded=encoded, labels=_words(labels, bounds)))
        return await run_in_threadpool(as_json, result, masks)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__, "method": segmenter.settings.method_name}

    return app


def run(segmenter: Segmenter, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serve until stopped."""
    import uvicorn

    uvicorn.run(make_server(segmenter, limits), host=host, port=port, log_level="warning")


def _words(text: str, bounds: Limits) -> list[list[str]]:
    classes = split_labels(text)
    names = [name for names in classes for name in names]
    if not names:
        raise LabelError('labels holds no names; expected some such as "cat, remote control, sofa|couch".')
    if len(names) > bounds.names or max(map(len, names)) > bounds.characters:
        raise LabelError(f"labels may hold {bounds.names} names, of {bounds.characters} characters each.")
    return classes


def _picture(data: bytes, bounds: Limits) -> PIL.Image.Image:
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception:  # whatever broken bytes make of Pillow's readers; `read_picture` says it in its own words
        width = height = 0
    if width * height > bounds.megapixels * 1e6:
        raise PictureError(f"the picture has {width} x {height} pixels; {bounds.megapixels:g} million are read.")
    return read_picture(io.BytesIO(data), paths=False)
