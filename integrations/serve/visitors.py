"""What a visitor may ask for, and what is made of what they send: no path and no URL of theirs is ever opened."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import PIL.Image

from sclip_plugin.errors import LabelError, PictureError
from sclip_plugin.imaging.opening import register_plugins
from sclip_plugin.imaging.pictures import read_picture
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.text.files import split_labels
from sclip_plugin.text.tuned import Tuned
from sclip_plugin.text.wordlist import Auto, as_auto


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        megabytes: largest request.
        megapixels: largest picture. Phones make pictures of 50 megapixels.
        names: most names in a question, synonyms included.
        characters: longest name.
        kept: most encoded pictures that are kept; the least recently used goes first.
        kept_megapixels: most pixels of all kept pictures together. The newest picture is kept in any case.
        waiting: most requests that wait; more are answered 503.
        waiting_megapixels: most pixels of all waiting pictures together; more are answered 503.
        decoded_megapixels: most pixels that are decoded at one time. A larger picture is decoded alone.
        together: most pictures that go through the tower in one batch.
        seconds: longest wait for a turn, after which it is 503; and then for the answer, after which it is 504.
        connections: most open connections; more are answered 503.
        silent_seconds: longest pause within a request; then the connection is closed with 408.
        upload_seconds: longest time for a whole request to arrive; then the connection is closed with 408.
        examples: most annotated pictures that a visitor may teach with at one time.
        examples_megapixels: most pixels of these and of their masks together.
        visitors: most visitors whose picture the page keeps; the one seen longest ago is forgotten.
    """

    megabytes: float = 50
    megapixels: float = 64
    names: int = 200
    characters: int = 100
    kept: int = 32
    kept_megapixels: float = 128
    waiting: int = 64
    waiting_megapixels: float = 2000
    decoded_megapixels: float = 48
    together: int = 16
    seconds: float = 60
    connections: int = 256
    silent_seconds: float = 15
    upload_seconds: float = 180
    examples: int = 20
    examples_megapixels: float = 128
    visitors: int = 64


def words_of(text: str | Iterable[str], bounds: Limits) -> list[list[str]]:
    """Classes, each a list of names: never a file of labels.

    Args:
        text: ``"cat, sofa|couch"``, or the JSON list ``'["cat", ["sofa", "couch"]]'``, or several of them.
        bounds: how many names, and how long.

    Raises:
        LabelError: none, too many, too long, or half JSON.
    """
    classes = [names for part in ([text] if isinstance(text, str) else text) for names in _classes_of(part)]
    names = [name for names in classes for name in names]
    if not names:
        raise LabelError('labels holds no names; expected some such as "cat, remote control, sofa|couch".')
    if len(names) > bounds.names or max(map(len, names)) > bounds.characters:
        raise LabelError(f"labels may hold {bounds.names} names, of {bounds.characters} characters each.")
    return classes


def labels_of(text: str | Iterable[str], bounds: Limits) -> list[list[str]] | Auto:
    """`words_of`, where ``@auto`` in front asks for the names that are found in the picture."""
    classes = words_of(text, bounds)
    return as_auto([classes[0][0], *classes[1:]]) or classes


def _classes_of(text: str) -> list[list[str]]:
    if not text.lstrip().startswith(("[", "{", '"')):
        return split_labels(text)
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = None
    entries = [[entry] if isinstance(entry, str) else entry for entry in listed] if isinstance(listed, list) else []
    if not entries or not all(isinstance(e, list) and all(isinstance(name, str) for name in e) for e in entries):
        raise LabelError(
            f'labels={text[:80]!r} looks like JSON; expected names between commas, such as "cat, sofa|couch", or a '
            'JSON list of names and of lists of synonyms, such as ["cat", ["sofa", "couch"]].'
        )
    classes = [[name.strip() for name in entry if name.strip()] for entry in entries]
    return [names for names in classes if names]


def size_of(data: Any) -> tuple[int, int]:
    """Width and height that a picture's header names, without decoding it; (0, 0) if it can't be read.

    Args:
        data: an open binary file, left at its start.
    """
    register_plugins()
    try:
        with PIL.Image.open(data) as header:
            return header.size
    except Exception:  # whatever broken bytes make of Pillow's readers; `read_picture` says it in its own words
        return 0, 0
    finally:
        data.seek(0)


def check_size(size: tuple[int, int], bounds: Limits) -> None:
    """Raise the `PictureError` of a picture with too many pixels."""
    width, height = size
    if width * height > bounds.megapixels * 1e6:
        raise PictureError(
            f"the picture has {width} x {height} pixels; expected at most {bounds.megapixels:g} million. Send a "
            "smaller one, or start the server with --max-pixels."
        )


def picture_of(data: bytes, bounds: Limits) -> PIL.Image.Image:
    """A picture, RGB, from a file's bytes.

    Raises:
        PictureError: none that can be read, or too large a one.
    """
    file = _Named(data)
    check_size(size_of(file), bounds)
    return read_picture(file, paths=False)


class _Named(io.BytesIO):
    """A file in memory, with what it is called where it is found wrong."""

    name = "the picture"


class Kept:
    """Encoded pictures or tuned labels by name, bounded in number and pixels; the least recently used goes first."""

    def __init__(self, bounds: Limits) -> None:
        self._bounds = bounds
        self._pictures: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: str, encoded: Encoded | Tuned) -> None:
        with self._lock:
            self._pictures[name] = encoded
            while len(self._pictures) > 1 and self._is_full():
                self._pictures.popitem(last=False)

    def get(self, name: str) -> Any:
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)

    def __len__(self) -> int:
        return len(self._pictures)

    def _is_full(self) -> bool:
        pixels = sum(
            height * width for height, width in (getattr(kept, "size", (0, 0)) for kept in self._pictures.values())
        )
        return len(self._pictures) > self._bounds.kept or pixels > self._bounds.kept_megapixels * 1e6
