"""One scene in files of every format that says how it is turned, eight times each, and as it is upright."""

from __future__ import annotations

import numpy as np
from PIL import Image

import sclip_plugin as sp

ORIENTATION = 0x0112
STORED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""What of an upright picture a file holds that says so, as the EXIF standard has it."""

UPRIGHT = {**STORED, 6: STORED[8], 8: STORED[6]}
"""The other way."""

OPTIONS = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "tif": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
    "heic": {"quality": 95},
}


def writable(suffix: str) -> bool:
    """Whether this machine writes a format; registers the plugin for HEIC."""
    from sclip_plugin.imaging.opening import register_plugins

    register_plugins()
    return f".{suffix}" in Image.registered_extensions()


def write(folder, suffix: str, orientation: int, pixels: np.ndarray):
    """A file that shows ``pixels`` upright, and (H, W, 3) of what is really in it: some formats lose a little."""
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path, plain = folder / f"{suffix}-{orientation}.{suffix}", folder / f"plain.{suffix}"
    # As bytes: of those pillow-heif makes the box by which a HEIC is turned.
    stored.save(path, exif=exif.tobytes(), **OPTIONS[suffix])
    stored.save(plain, **OPTIONS[suffix])
    with Image.open(plain) as file:
        held = np.asarray(file.convert("RGB"))
    plain.unlink()
    return path, np.ascontiguousarray(UPRIGHT[orientation](held))


def scene() -> np.ndarray:
    return np.asarray(sp.draw_scene(seed=1_000_000_001, size=(48, 64)).picture)
