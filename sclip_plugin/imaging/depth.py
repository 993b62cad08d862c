"""Brightness of more than 8 bits brought to 8: by what a file says of its values, else by its highest value."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image

from ..errors import PictureError

FEWER_BITS = (8, 10, 12)
"""What may be stored in 16 bits without filling them. Read as 16 bits it would be nearly black: 15 of 255 at most."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """A picture of one channel of 16 or 32 bits (modes I, I;16 and F) in mode L.

    Raises:
        PictureError: values below 0, above 65535, or none.
    """
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise PictureError(
            f"{name} is of mode {picture.mode} and holds values from {low:.6g} to {high:.6g}; expected 0 to 1, 0 to "
            "255 or 0 to 65535 (signed and scientific data have to be scaled first)."
        )
    tags = getattr(picture, "tag_v2", {})
    said = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if picture.mode == "F" and high <= 1:
        grey = (values * 255 + 0.5).astype(np.uint8)
    elif said < 16:
        grey = _highest_bits(values, said)
    elif high <= 255 and not _sixteen(picture):
        grey = values.astype(np.uint8)
    else:
        grey = from_sixteen(values, name)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)


def from_sixteen(values: np.ndarray, name: str) -> np.ndarray:
    """Values from 0 to 65535 as uint8.

    Cameras, microscopes and DICOM exports store 10 or 12 bits in 16. Where no value reaches 4096, the fewest of
    `FEWER_BITS` that hold the highest value are taken, and that is said.

    Args:
        values: integers or floating-point numbers, of any shape.
        name: what a warning calls the picture.

    Example:
        >>> import numpy as np
        >>> from_sixteen(np.array([0, 32768, 65535], np.uint16), "a picture").tolist()
        [0, 128, 255]
    """
    high = int(values.max())
    bits = next((bits for bits in FEWER_BITS if 0 < high < 2**bits), 16)
    if bits < 16:
        warnings.warn(
            f"{name} may hold values up to 65,535, but none is above {high:,}: it is read as {bits} bits in 16. If it "
            "is meant to be that dark, pass an array of its values / 65535.",
            stacklevel=2,
        )
    return _highest_bits(values, bits)


def warn_if_black(rgb: Image.Image, name: str) -> None:
    """Say so where a colour file of 16 bits is nearly black. Pillow reads the higher 8 bits of each channel only."""
    high = max(top for _, top in rgb.getextrema())  # type: ignore[misc]
    if 0 < high < 16:
        warnings.warn(
            f"{name} has 16 bits a channel and is nearly black: its highest value is {high} of 255. If it holds 12 "
            "bits in 16, pass an array of its values / 4095, or save it with its values times 16.",
            stacklevel=2,
        )


def _highest_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The higher 8 of ``bits`` bits, as Pillow takes them of 16-bit colours."""
    return np.minimum(values.astype(np.uint16) >> (bits - 8), 255).astype(np.uint8)


def _sixteen(picture: Image.Image) -> bool:
    """Whether 16 bits are meant, however few are used: a PNG of 16 bits is of mode I in older Pillows."""
    return picture.mode.startswith("I;16") or (picture.format == "PNG" and picture.mode == "I")
