"""Overlay videos: frames in colours above a legend, all of one size, written whole or not at all."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from PIL import Image

from ..draw import fonts, legend
from ..draw.colours import Colours, colours_of, rgb
from ..errors import SettingError, ShapeError
from ..importing import needs
from ..storage.files import atomic_path
from .reading import checked_rate

BT709 = 1  # of H.273: primaries, transfer and matrix
CRF = "20"  # x264's quality; 23 is its default, which blurs the borders of small regions
QUALITY = 3 * 118  # of MPEG-4: quantiser 3, in FFmpeg's units


@contextlib.contextmanager
def write_video(path: str | os.PathLike[str], fps: float, comment: str | None = None) -> Iterator[VideoWriter]:
    """An MP4 in H.264 (MPEG-4 where PyAV has no x264), which is there, and whole, when the block ends without an error.

    Args:
        path: the file to make or replace.
        fps: frames a second, so a frame stands for 1 / fps seconds.
        comment: what the file says of itself, for `comment_of`.

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
        if comment is not None:
            container.metadata["comment"] = comment
        writer = VideoWriter(container, rate)
        yield writer
        writer.finish()


def comment_of(path: str | os.PathLike[str]) -> str | None:
    """What a video says of itself; None where it says nothing, or is none."""
    av = needs("av", "video")
    try:
        with av.open(f"file:{os.fspath(path)}") as container:
            return container.metadata.get("comment")
    except (av.error.FFmpegError, ValueError):
        return None


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
    """Frames above a legend, all of one size.

    The legend takes at most a third of the picture. Where that has room for all labels, they stand where they are. Else
    it has as many places as fit: a label takes one when it is first seen, and keeps it as long as it is in the frame or
    no other label needs the place. A small video is enlarged by a whole factor, so that its legend can be read.

    Args:
        size: (width, height) of the frames.
        labels: what the legend lists.
        colours: by label, in place of a word's own.

    Example:
        >>> canvas = Canvas((300, 200), ["cat", "sofa"])
        >>> canvas(Image.new("RGB", (300, 200)), {"cat": 0.4}).size == canvas.size
        True
    """

    def __init__(self, size: tuple[int, int], labels: Sequence[str], colours: Colours | None = None) -> None:
        scale = legend.display_scale(size)
        self.room = size[0] * scale, size[1] * scale
        table = colours_of(labels, colours)
        self.entries = {label: legend.Entry(label, rgb(c)) for label, c in zip(labels, table, strict=True)}
        self.font = legend.font_size(*self.room)
        everything = self._panel(list(self.entries))
        least, most = self._panel(labels[:1]).height, int(self.room[1] * legend.LARGEST_SHARE)
        self.whole = everything if everything.height <= max(least, most) else None
        height = max(least, min(everything.height, most))
        self.size = max(self.room[0], everything.width), self.room[1] + height
        widest = max(self.entries, key=lambda label: fonts.text_width(label, self.font))
        counts = range(1, len(self.entries) + 1)
        count = bisect.bisect_right(counts, height, key=lambda n: self._panel([widest] * n).height)
        self.places = self._panel([widest] * max(1, count))
        self.seen: dict[int, str] = {}  # by place, the label that has it

    def __call__(self, picture: Image.Image, amounts: Mapping[str, float]) -> Image.Image:
        """A frame with its legend, RGB.

        Args:
            picture: RGB; one of another size than the first is made as large as there is room for it.
            amounts: how much there is of each label.
        """
        scale = min(self.room[0] / picture.width, self.room[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        out = Image.new("RGB", self.size, legend.BACKGROUND)
        out.paste(picture.resize(size, Image.Resampling.NEAREST))
        (self.whole or self._of({label for label in amounts if amounts[label]}, amounts)).draw(out, 0, self.room[1])
        return out

    def _of(self, there: set[str], amounts: Mapping[str, float]) -> legend.Panel:
        """The labels of the film so far, each in its place; of more than there are places, the largest."""
        new = sorted(there - set(self.seen.values()), key=lambda label: (-amounts[label], label))
        count = len(self.places.places)
        free = [n for n in range(count) if n not in self.seen]
        free += [n for n in range(count) if n in self.seen and self.seen[n] not in there]
        self.seen |= dict(zip(free, new, strict=False))
        panel = legend.Panel(self.font, self.places.width, self.places.height)
        for n, label in sorted(self.seen.items()):
            x, y, right, lines, _ = self.places.places[n]
            fitted = fonts.wrap_text(label, self.font, right - x - round(1.5 * self.font), lines=len(lines))
            panel.places.append((x, y, right, fitted, self.entries[label]))
        return panel

    def _panel(self, labels: Sequence[str]) -> legend.Panel:
        return legend.fill([self.entries[label] for label in labels], self.font, self.room[0])


def _even(picture: Image.Image) -> Image.Image:
    width, height = picture.width + picture.width % 2, picture.height + picture.height % 2
    if picture.size == (width, height):
        return picture
    out = Image.new("RGB", (width, height), "white")
    out.paste(picture)
    return out
