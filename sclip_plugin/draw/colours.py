"""The colours of names: the same word has the same colour in every picture and every run.

Common words have colours that were chosen to differ (`assets/colours.txt`); the colour of any other word comes from a
hash of it. Two of those may look alike; colours of one's own settle that.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from ..errors import SettingError
from ..storage.reading import load_yaml, read_text

__all__ = ["NO_LABEL", "colours_of", "is_neutral", "read_colours", "rgb"]

Colour = tuple[int, int, int]
Colours = Mapping[str, "str | Sequence[int]"]

NO_LABEL: Colour = (128, 128, 128)
BACKDROP: Colour = (200, 200, 200)
NEUTRAL = {"background", "unlabeled", "unlabelled", "void", "nolabel"}
COMMON = 20  # words that begin the list of those with chosen colours
TRIES = 2


def colours_of(names: Sequence[str], given: Colours | None = None) -> np.ndarray:
    """The colours of labels, of each whatever the others are.

    Args:
        names: the labels.
        given: colours of one's own, by name; names that are not among the labels do no harm.

    Returns:
        (n, 3) uint8, RGB. Background is a light grey, since it is not painted.

    Raises:
        SettingError: what is given is no colour.

    Example:
        >>> from sclip_plugin.draw.colours import colours_of
        >>> (colours_of(["cat", "sky"])[0] == colours_of(["zebra", "cat"])[1]).all()
        np.True_
        >>> colours_of(["crack"], {"crack": "red"}).tolist()
        [[255, 0, 0]]
    """
    own = {_key(name): rgb(colour) for name, colour in (given or {}).items()}
    return np.array([own.get(_key(name)) or _own_colour(_key(name)) for name in names], np.uint8).reshape(-1, 3)


def read_colours(path: str | Path) -> dict[str, Colour]:
    """The colours of a file: YAML or JSON, a name and a colour each, ``cat: "#e69f00"`` or ``cat: [230, 159, 0]``.

    Raises:
        FileFormatError: not such a file.
        SettingError: what stands there is no colour.
    """
    content = load_yaml(read_text(path), str(path))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingError(f'{path} holds no colours; expected a line a name, such as  cat: "#e69f00"')
    return {name: rgb(colour) for name, colour in content.items()}


def is_neutral(name: str) -> bool:
    """Whether a label says that there is nothing: such pixels are not painted.

    >>> is_neutral("Background"), is_neutral("sky")
    (True, False)
    """
    return _key(name) in NEUTRAL


def rgb(colour: Any) -> Colour:
    """A colour as three whole numbers, from three numbers or a name or code that Pillow knows.

    Raises:
        SettingError: none of these.

    >>> rgb("#ff8000"), rgb(np.array([1, 2, 3], np.uint8))
    ((255, 128, 0), (1, 2, 3))
    """
    try:
        red, green, blue = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else (int(c) for c in colour)
        if min(red, green, blue) < 0 or max(red, green, blue) > 255:
            raise ValueError("out of range")
    except (TypeError, ValueError) as error:
        raise SettingError(f"{colour!r:.80} is no colour; expected '#e69f00', 'orange', or [230, 159, 0].") from error
    return red, green, blue


@functools.lru_cache(maxsize=65536)
def _own_colour(key: str) -> Colour:
    """What a word has whatever stands beside it: chosen, or of its hashes the one least like the commonest words."""
    known = _known()
    if key in NEUTRAL or key in known:
        return known.get(key, BACKDROP)
    hashed = _candidates()[[_hash(key, n) % len(_candidates()) for n in range(TRIES)]]
    common = _oklab(np.array(list(known.values())[:COMMON]))
    apart = ((_oklab(hashed)[:, None] - common[None]) ** 2).sum(axis=2).min(axis=1)
    return rgb(hashed[int(apart.argmax())])


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _hash(key: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{number} {key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


@functools.lru_cache(maxsize=1)
def _known() -> dict[str, Colour]:
    text = (Path(__file__).with_name("assets") / "colours.txt").read_text(encoding="utf-8")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("#"))
    return {word: rgb(f"#{code}") for code, word in lines}


@functools.lru_cache(maxsize=1)
def _candidates() -> np.ndarray:
    """(n, 3) uint8: colours of even steps in OKLab's hue, lightness and chroma, as far as screens show them."""
    lightness, chroma, hue = np.meshgrid(
        np.linspace(0.45, 0.85, 5), np.linspace(0.1, 0.26, 5), np.radians(np.arange(0, 360, 7.5)), indexing="ij"
    )
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1).reshape(-1, 3)
    linear = np.linalg.solve(TO_LAB.T, lab.T).T ** 3 @ np.linalg.inv(TO_CONES)
    shown = linear[(linear >= 0).all(axis=1) & (linear <= 1).all(axis=1)]
    encoded = np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)


def _oklab(colours: np.ndarray) -> np.ndarray:
    """(n, 3) sRGB of 0 to 255 to OKLab (Ottosson 2020)."""
    values = np.asarray(colours, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ TO_CONES) @ TO_LAB


TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)
