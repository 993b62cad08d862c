"""Overlay videos: frames in colours beside one legend that stays, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from PIL import Image

from ..draw import legend
from ..draw.colours import Colours, colours_of, rgb
from ..errors import SettingError, ShapeError
from ..files import atomic_path
from ..importing import needs
from .reading import checked_rate

BT709 = 1  # of H.273: primaries, transfer and matrix
CRF = "20"  # x264's quality; 23 is its default, which blurs the borders of small regions
QUALITY = 3 * 118  # of MPEG-4: quantiser 3, in FFmpeg's units


@contextlib.contextmanager
def write_video(path: str | os.PathLike[str], fps: float) -> Iterator[VideoWriter]:
    """An MP4 in H.264 (MPEG-4 where PyAV has no x264), which is there, and whole, when the block ends without an error.

    Args:
        path: the file to make or replace.
        fps: frames a second, so a frame stands for 1 / fps seconds.

    Returns:
        A context manager giving a `VideoWriter`.

    Raises:
        SettingError: ``fps`` is no number above 0, or no frame was added.
        OSError: it can't be written.
        MissingPackageError: without the extra ``video``.

    Example:
        >>> import tempfile
        >>> from sclip_plugin.video.reading import Video
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with write_video(folder + "/grey.mp4", fps=2) as film:
        ...         for grey in range(4):
        ...             film.add(Image.new("RGB", (64, 48), (60 * grey,) * 3))
        ...     Video(folder + "/grey.mp4").duration
        2.0
    """
    rate = checked_rate(fps)
    with atomic_path(path) as lent, needs("av", "video").open(f"file:{lent}", "w", format="mp4") as container:
        writer = VideoWriter(container, rate)
        yield writer
        writer.finish()


class VideoWriter:
    """What frames are added to.

    A side with an odd number of pixels gets a white one more, which the codecs need.
    """

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container = container
        self._rate = rate
        self._stream: Any = None
        self._size = (0, 0)
        self._count = 0

    def add(self, picture: Image.Image) -> None:
        """One more frame.

        Args:
            picture: RGB, of the size of the first.

        Raises:
            ShapeError: of another size.
        """
        if self._stream is None:
            self._size = picture.size
            self._stream = self._begun()
        if picture.size != self._size:
            raise ShapeError(
                f"frame {self._count} is {picture.width} x {picture.height}; expected "
                f"{self._size[0]} x {self._size[1]}, the size of the first."
            )
        frame = needs("av").VideoFrame.from_image(_even(picture))
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def finish(self) -> None:
        """What the encoder still holds."""
        if self._stream is None:
            raise SettingError("no frame was added to the video; expected one or more.")
        self._container.mux(self._stream.encode(None))

    def _begun(self) -> Any:
        if "libx264" in needs("av").codecs_available:
            stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": CRF})
        else:
            options = {"flags": "+qscale", "global_quality": str(QUALITY)}
            stream = self._container.add_stream("mpeg4", rate=self._rate, options=options)
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._rate
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # from 16 to 235
        return stream


class Canvas:
    """A legend of all labels, drawn once, with room for frames, so that all are of one size.

    A small video is enlarged by a whole factor, so that the legend can be read. Of more labels than fit into a third of
    the picture, the first are listed.

    Args:
        size: (width, height) of the frames.
        labels: what the legend lists.
        colours: by label, in place of a word's own.

    Example:
        >>> canvas = Canvas((300, 200), ["cat", "sofa"])
        >>> all(canvas(Image.new("RGB", size)).size == canvas.empty.size for size in [(300, 200), (100, 100)])
        True
    """

    def __init__(self, size: tuple[int, int], labels: Sequence[str], colours: Colours | None = None) -> None:
        scale = legend.display_scale(size)
        entries = [legend.Entry(label, rgb(c)) for label, c in zip(labels, colours_of(labels, colours), strict=True)]
        self.room = size[0] * scale, size[1] * scale
        self.empty = legend.attach(Image.new("RGB", self.room), entries)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """A frame, RGB, above or beside the legend; one of another size as large as there is room for it."""
        scale = min(self.room[0] / picture.width, self.room[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        out = self.empty.copy()
        out.paste(picture.resize(size, Image.Resampling.NEAREST))
        return out


def _even(picture: Image.Image) -> Image.Image:
    width, height = picture.width + picture.width % 2, picture.height + picture.height % 2
    if picture.size == (width, height):
        return picture
    out = Image.new("RGB", (width, height), "white")
    out.paste(picture)
    return out
