"""Pictures in any form to RGB, and the protocol's resizing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Union

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import PictureError, PictureNotFoundError

Picture = Union[str, "os.PathLike[str]", IO[bytes], Image.Image, np.ndarray, Tensor]


def read_picture(source: Picture) -> Image.Image:
    """A picture as RGB, upright.

    Args:
        source: a path; an open binary file; a PIL picture of any mode; an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (C, H, W) with as many channels. Arrays and tensors hold 0-255 (uint8), 0-65535
            (uint16) or 0-1 (floating point).

    EXIF orientation is honoured, 16-bit pictures are scaled to 8 bits, transparency is laid over white.

    Raises:
        PictureError: not a picture, or of another shape.
        PictureNotFoundError: no such file.

    Example:
        >>> import numpy as np
        >>> from sclip_plugin.imaging.pictures import read_picture
        >>> read_picture(np.zeros((4, 6), dtype=np.uint16)).size
        (6, 4)
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Tensor):
        if source.dim() == 4 and len(source) == 1:
            source = source[0]
        if source.dim() == 3 and source.shape[0] in (1, 3, 4):
            source = source.permute(1, 2, 0)
        source = source.detach().cpu()
        return _to_rgb(_from_array((source.float() if source.is_floating_point() else source).numpy()))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise PictureNotFoundError(f"no such picture: {path}")
        if path.is_dir():
            raise PictureError(f"{path} is a folder; name the pictures in it, for instance {path / '*.jpg'}.")
        name = str(path)
    elif hasattr(source, "read"):
        name = getattr(source, "name", type(source).__name__)
    else:
        raise PictureError(
            f"a picture was given as {type(source).__name__}; expected a path, an open file, a PIL picture, an array "
            "(H, W, 3) or a tensor (3, H, W)."
        )
    try:
        with Image.open(source) as picture:  # type: ignore[arg-type]
            return _to_rgb(picture)
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: {error}") from error
    except (OSError, SyntaxError, ValueError, io.UnsupportedOperation) as error:
        raise PictureError(f"{name} cannot be read as a picture: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise PictureError(
            f"a picture was given with shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4) for an array, "
            "(3, H, W) for a tensor."
        )
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise PictureError(
                f"a floating-point picture holds values from {low:.3g} to {high:.3g}; expected 0 to 1. "
                "Give 0-255 as uint8, and pictures before normalisation."
            )
        array = (array.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise PictureError(f"a picture of {array.dtype} holds values from {low} to {high}; expected 0 to 255.")
        array = array.astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        top = 255 if values.size and values.max() <= 255 and picture.mode != "I;16" else 65535
        picture = Image.fromarray((values.astype(np.float32) * (255 / top)).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) uint8, with channels last in memory."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
