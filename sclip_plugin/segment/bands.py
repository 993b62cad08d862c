"""How the bands of a raster file become red, green and blue of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PictureError
from ..importing import needs

LOOKED_OVER = 1024  # pixels a side of the small copy that tells the range of values
DARKEST, BRIGHTEST = 2, 98  # per cent of the values that become black and white
_COLOURS = ("red", "green", "blue")
_OTHER_COLOURS = {"hue", "saturation", "lightness", "cyan", "magenta", "yellow", "Y", "Cb", "Cr"}


@dataclass(frozen=True)
class Bands:
    """What is read of a file, and what becomes of it.

    Fields:
        numbers: three bands in the order red, green, blue; or one.
        palette: (values, 3) uint8 of a band that holds indices of colours.
        range: (bands, 2), what becomes black and white; None where 8-bit values stay as they are.
        inverted: 0 is white.
    """

    numbers: list[int]
    palette: np.ndarray | None = None
    range: np.ndarray | None = None
    inverted: bool = False

    @classmethod
    def of(cls, file: Any, given: Sequence[int] | None = None) -> Bands:
        """Those of an open rasterio file.

        Values of more than 8 bits are stretched from the 2nd to the 98th per cent of those in a small copy of the
        whole; those of fewer bits over the range of their bits.

        Args:
            given: band numbers from 1 on, three or one; None for those that the file calls red, green and blue, else
                the first three, else the first. Alpha is none of them.

        Raises:
            PictureError: no such bands, or colours of another kind.
        """
        numbers = _checked(file, given) if given is not None else _by_colour(file)
        if any(file.dtypes[number - 1].startswith("complex") for number in numbers):
            raise PictureError(f"{file.name} holds complex numbers; expected brightness: save their amplitude.")
        if len(numbers) == 1 and file.colorinterp[numbers[0] - 1].name == "palette":
            return cls(numbers, palette=_palette(file, numbers[0]))
        inverted = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        return cls(numbers, None, _range_of_values(file, numbers), inverted)

    def read(self, file: Any, place: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 3) uint8 of a part of the file."""
        window = needs("rasterio", "export").windows.Window.from_slices(*place)
        values = file.read(self.numbers, window=window)
        if self.palette is not None:
            return self.palette[values[0]]
        if self.range is not None:
            low, high = self.range[:, 0, None, None], self.range[:, 1, None, None]
            shares = (np.nan_to_num(values.astype(np.float32)) - low) / np.maximum(high - low, 1e-12)
            values = (255 * shares.clip(0, 1) + 0.5).astype(np.uint8)
        values = 255 - values if self.inverted else values
        return np.ascontiguousarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0))


def _checked(file: Any, given: Sequence[int]) -> list[int]:
    chosen = list(given)
    if len(chosen) not in (1, 3) or not all(isinstance(b, int) and 1 <= b <= file.count for b in chosen):
        raise PictureError(f"bands={given!r} of a file of {file.count}; expected one for grey, or three, from 1 on.")
    return chosen


def _by_colour(file: Any) -> list[int]:
    kinds = [kind.name for kind in file.colorinterp]
    if all(colour in kinds for colour in _COLOURS):
        return [kinds.index(colour) + 1 for colour in _COLOURS]
    if _OTHER_COLOURS & set(kinds):
        raise PictureError(
            f"the bands of {file.name} are {', '.join(kinds)}; expected red, green and blue, or grey. Convert it to "
            "RGB first, or say which bands to take (bands=, --bands)."
        )
    numbers = [number for number, kind in enumerate(kinds, 1) if kind != "alpha"] or [1]
    return numbers[:3] if len(numbers) >= 3 else numbers[:1]


def _palette(file: Any, number: int) -> np.ndarray:
    colours = np.zeros((np.iinfo(file.dtypes[number - 1]).max + 1, 3), np.uint8)
    for value, colour in file.colormap(number).items():
        colours[value] = colour[:3]
    return colours


def _range_of_values(file: Any, numbers: list[int]) -> np.ndarray | None:
    if all(file.dtypes[number - 1] == "uint8" for number in numbers):
        bits = [int(file.tags(number, ns="IMAGE_STRUCTURE").get("NBITS", 8)) for number in numbers]
        return None if min(bits) == 8 else np.array([(0, 2**each - 1) for each in bits])
    shrink = max(1.0, max(file.shape) / LOOKED_OVER)
    size = (max(1, round(side / shrink)) for side in file.shape)
    small = file.read(numbers, masked=True, out_shape=(len(numbers), *size))
    values = [band.compressed().astype(np.float64) for band in small]
    values = [band[np.isfinite(band)] for band in values]
    return np.array([np.percentile(band, (DARKEST, BRIGHTEST)) if len(band) else (0, 1) for band in values])
