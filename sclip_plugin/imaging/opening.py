"""Picture files opened with Pillow: bounded, upright on request, and broken in one way only.

Imports no torch: data sets are looked over without it.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Union

from PIL import Image, ImageFile

from ..errors import PictureError, PictureNotFoundError

Source = Union[str, "os.PathLike[str]", IO[bytes], Image.Image]

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation; 1 is upright."""

# Formats that Pillow reads with a plug-in only, or in later releases only.
_WANTED = {
    ".heic": "pip install pillow-heif",
    ".heif": "pip install pillow-heif",
    ".hif": "pip install pillow-heif",
    ".avif": "pip install 'pillow>=11.3'",
}


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """A picture as Pillow opens it, within the limit on pixels; whatever breaks in the block is a `PictureError`.

    The limit is Pillow's own, ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million; None for none), but what Pillow only warns of
    is refused: two kilobytes of GIF may declare gigabytes of pixels.

    Args:
        source: a path to an ordinary file, an open binary file, or a picture that Pillow has opened.

    Raises:
        PictureNotFoundError: no such file.
        PictureError: no picture, a broken one, one with too many pixels, a folder, a device or a pipe.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from sclip_plugin.imaging.opening import opened
        >>> file = io.BytesIO()
        >>> Image.new("L", (6, 4)).save(file, "PNG")
        >>> with opened(file) as picture:
        ...     picture.size
        (6, 4)
    """
    name = name_of(source)
    try:
        if isinstance(source, Image.Image):
            if isinstance(source, ImageFile.ImageFile):
                _check_pixels(source, name)
            yield source
            return
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_file(source)) if isinstance(source, (str, os.PathLike)) else source
            register_plugins()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, in our own words
                picture = stack.enter_context(Image.open(file))
            _check_pixels(picture, name)
            yield picture
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise PictureError(f"{name} has more than {2 * limit:,} pixels. {_how_to_raise()}") from error
    except Image.UnidentifiedImageError as error:
        suffix = Path(name).suffix.lower()
        hint = f" {suffix[1:].upper()} is not read by this Pillow: {_WANTED[suffix]}." if suffix in _WANTED else ""
        if suffix in (".tif", ".tiff"):
            hint = " TIFFs with other bands or bits than Pillow reads are read by sclip geotiff."
        raise PictureError(f"{name} cannot be read as a picture: its format is not known.{hint}") from error
    except Exception as error:  # Pillow's readers raise almost anything on a broken file
        reason = str(error) or type(error).__name__
        raise PictureError(f"{name} cannot be read as a picture: {reason:.500}") from error


def named_bytes(data: bytes, name: str) -> io.BytesIO:
    """A picture's file in memory, under the name that errors call it by."""
    file = io.BytesIO(data)
    file.name = os.path.basename(name)
    return file


@contextlib.contextmanager
def open_file(source: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """An ordinary file's bytes, once it is known to be one: a pipe would be waited for, a device may have no end.

    Raises:
        PictureNotFoundError: no such file.
        PictureError: a folder, a device or a pipe, or a file that may not be read.
    """
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise PictureNotFoundError(f"no such picture: {path}") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error
    if stat.S_ISDIR(mode):
        raise PictureError(f"{path} is a folder; name the pictures in it, for instance {path / '*.jpg'}.")
    if not stat.S_ISREG(mode):
        raise PictureError(f"{path} is a pipe or a device; expected an ordinary file.")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        yield file


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is upright, or where the EXIF data can't be read."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF data beside a picture that is whole
        return 1
    return found if found in TURNS else 1


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its orientation says, in EXIF or XMP.

    The result may say so still: `read_picture` gives pictures that don't.
    """
    picture.load()  # Pillow turns a TIFF here, and takes its orientation away
    turn = TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def raw_mode(picture: Image.Image) -> str:
    """How the file holds its values, in Pillow's words, such as "L;4"; "" where that is not known.

    Known before the pixels are loaded.
    """
    for tile in getattr(picture, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        return next((part for part in arguments if isinstance(part, str)), "")
    return ""


def frames(picture: Image.Image) -> int:
    """How many frames or pages a picture file has. A phone's MPO is one picture and what belongs to it."""
    if picture.format in ("MPO", None):
        return 1
    try:
        return getattr(picture, "n_frames", 1)
    except Exception:  # a later frame that is broken
        return 1


def register_plugins() -> None:
    """Let Pillow read HEIC where pillow-heif is installed."""
    global _registered
    if not _registered:
        _registered = True
        with contextlib.suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()


_registered = False


def name_of(source: object) -> str:
    """What errors and warnings call a picture."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or "a PIL picture"
    return str(getattr(source, "name", type(source).__name__))


def _check_pixels(picture: Image.Image, name: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    width, height = picture.size
    if width < 1 or height < 1:
        raise PictureError(f"{name} is {width} x {height} pixels; expected one at least.")
    if limit is not None and width * height > limit:
        raise PictureError(
            f"{name} is {width} x {height}, {width * height:,} pixels; the limit is {limit:,}. {_how_to_raise()}"
        )


def _how_to_raise() -> str:
    return "If you trust it: --max-pixels N on the command line, PIL.Image.MAX_IMAGE_PIXELS = N in Python."
