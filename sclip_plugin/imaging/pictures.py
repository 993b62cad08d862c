"""The one door for pictures: in any form to upright 8-bit RGB."""

from __future__ import annotations

import os
import warnings
from typing import IO, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PictureError
from .depth import eight_bits, from_sixteen, warn_if_black
from .opening import TURNS, Source, frames, name_of, opened, orientation, raw_mode

Picture = Union[str, "os.PathLike[str]", IO[bytes], Image.Image, np.ndarray, Tensor]

_ROWS_AT_ONCE = 256


def read_picture(source: Picture, *, paths: bool = True) -> Image.Image:
    """A picture as 8-bit RGB, upright, with nothing left that says how to turn it: what was read may be read again.

    Args:
        source: a path; an open binary file; a PIL picture of any mode; an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (C, H, W) with as many channels. Arrays and tensors hold 0-255 (uint8), 0-65535
            (uint16) or 0-1 (floating point).
        paths: whether text may name a file. A server that hands on what it was sent says False, so that nobody is
            shown the server's own files.

    The orientation in EXIF or XMP data is honoured, once. Transparency is laid over white. Of an animated or multi-page
    file the first frame is taken, with a warning. Pictures of 16 bits are scaled to 8; where no value reaches 4096 they
    are read as 8, 10 or 12 bits in 16, with a warning. A TIFF's bits per sample and WhiteIsZero are honoured.
    Floating-point pictures (PIL's mode F) hold 0 to 1, or 0 to 255, or 0 to 65535, told apart by their highest value.

    Raises:
        PictureError: not a picture, one with more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or of another shape. For
            a path at which there is no file it is a PictureNotFoundError.

    Example:
        >>> import numpy as np
        >>> from sclip_plugin.imaging.pictures import read_picture
        >>> read_picture(np.zeros((4, 6), dtype=np.uint16)).size
        (6, 4)
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "an array")
    if isinstance(source, Tensor):
        return _to_rgb(_from_array(_as_array(source)), "a tensor")
    if isinstance(source, (str, os.PathLike)):
        if not paths:
            raise PictureError("a path was given; expected a picture itself, since files are not to be read here.")
    elif not isinstance(source, Image.Image) and not hasattr(source, "read"):
        raise PictureError(
            f"a picture was given as {type(source).__name__}; expected a path, an open file, a PIL picture, an array "
            "(H, W, 3) or a tensor (3, H, W)."
        )
    with opened(source) as picture:
        rgb = _to_rgb(picture, name_of(source))
        name = source if isinstance(source, (str, os.PathLike)) else getattr(picture, "filename", "")
        rgb.filename = os.fspath(name)  # type: ignore[attr-defined]  # by which a folder of masks finds its own
        if not isinstance(source, Image.Image):
            _warn_of_frames(source, picture)
        return rgb


def is_read(picture: object) -> bool:
    """Whether a picture is as `read_picture` makes it."""
    return type(picture) is Image.Image and picture.mode == "RGB" and not picture.info


def _warn_of_frames(source: Source, picture: Image.Image) -> None:
    """Say that of an animated or multi-page file the first frame is taken."""
    count = frames(picture)
    if count > 1:
        name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "a picture")
        warnings.warn(f"{name} has {count} frames; the first is taken.", stacklevel=3)


def _as_array(tensor: Tensor) -> np.ndarray:
    if tensor.dim() == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.dim() == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, without data
        raise PictureError(f"a tensor of {tensor.dtype}, {tensor.layout}, holds no pixels: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise PictureError(
            f"a picture was given with shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4) for an array, "
            "(3, H, W) for a tensor."
        )
    if array.dtype.kind not in "buif":
        raise PictureError(f"a picture was given as an array of {array.dtype}; expected numbers, such as uint8.")
    if array.dtype.kind == "b":
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise PictureError(
                f"a floating-point picture holds values from {low:.3g} to {high:.3g}; expected 0 to 1. "
                "Give 0-255 as uint8, and pictures before normalisation."
            )
        array = (array.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = from_sixteen(array, "an array of uint16")
    elif array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise PictureError(f"a picture of {array.dtype} holds values from {low} to {high}; expected 0 to 255.")
        array = array.astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    sixteen = ";16" in raw_mode(picture)
    picture.load()  # Pillow turns a TIFF here, and takes its orientation away
    turn = TURNS.get(orientation(picture))
    if picture.mode.startswith(("I", "F")):
        picture = eight_bits(picture, name)
    if turn is not None:
        picture = picture.transpose(turn)
    see_through = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    rgb = _over_white(picture) if see_through else picture.convert("RGB")
    rgb = rgb.copy() if rgb is picture else rgb  # a file's own pixels go with the file
    rgb.info = {}  # with what turned it
    if sixteen:
        warn_if_black(rgb, name)
    return rgb


def _over_white(picture: Image.Image) -> Image.Image:
    """Some rows at a time: a large picture with transparency costs no three copies in four channels."""
    picture.load()
    width, height = picture.size
    out = Image.new("RGB", picture.size)
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = picture.crop((0, top, width, min(top + _ROWS_AT_ONCE, height)))
        rows.info = picture.info
        white = Image.new("RGBA", rows.size, "white")
        out.paste(Image.alpha_composite(white, rows.convert("RGBA")).convert("RGB"), (0, top))
    return out


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) uint8, with channels last in memory."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
