"""Frames of a video file, one at a time, at the times that are asked for."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import FileFormatError, PictureNotFoundError, SettingError
from ..importing import needs

Report = Callable[[str], object]

SLACK = Fraction(1, 1000)  # s: Matroska rounds times to milliseconds
SHORT = 1.0  # s that a file may end before it says, and more than this share of it: audio may be longer than the video
SHORT_SHARE = 0.05
MOST_WAITING = 1000  # packets whose frames have not come
LONGEST_SHOWN = 3600  # s that one frame may be shown: times further apart are damaged
MOST_FRAMES = 1_000_000  # that are looked at, at the rate that was asked for
SECONDS_TO_OPEN = 30  # s, also to read on: a live playlist is waited for without an end


@dataclass(frozen=True, eq=False)
class Frame:
    """What a video shows at a time.

    Attributes:
        time: seconds since its first frame.
        index: the number of the frame in the file, from 0 on.
        picture: RGB, upright, with square pixels.
    """

    time: float
    index: int
    picture: Image.Image


class Video:
    """A video file.

    Args:
        path: of an ordinary file; whatever FFmpeg reads.

    Attributes:
        path: a `Path`.
        duration: in seconds, as the file says; None where it does not.

    Raises:
        PictureNotFoundError: no such file.
        FileFormatError: a folder, no video, a file without video.
        MissingPackageError: without the extra ``video``.

    Example:
        >>> import tempfile, pathlib, sclip_plugin as sp
        >>> from sclip_plugin.video.writing import write_video
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "film.mp4"
        ...     with write_video(path, fps=2) as film:
        ...         for seed in range(6):
        ...             film.add(sp.draw_scene(seed, size=(64, 64)).picture)
        ...     [(frame.time, frame.index, frame.picture.size) for frame in Video(path).frames(fps=1)]
        [(0.0, 0, (64, 64)), (1.0, 2, (64, 64)), (2.0, 4, (64, 64))]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._opened() as container:
            video = container.streams.best("video")
            _check_pixels(self.path, video.width, video.height)
            tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", video.metadata.get("DURATION", ""))
            self.duration: float | None = None
            if video.duration is not None:
                self.duration = float(video.duration * video.time_base)
            elif tag:  # Matroska's
                self.duration = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
            elif container.duration and len(container.streams) == 1:  # in microseconds, of the longest stream
                self.duration = container.duration / 1e6

    def frames(self, fps: float = 1.0, report: Report = warnings.warn) -> Iterator[Frame]:
        """What is shown at 0, 1 / fps, 2 / fps, … seconds, each when it is asked for; no other frame is kept.

        A frame that is shown for longer comes several times. Of a file that is broken, what can be read comes; a frame
        that can't be decoded is replaced by the one before. Frames end where one would be shown for longer than an
        hour, since such times are damaged, and after a million.

        Args:
            fps: frames a second, above 0; one in ten seconds is 0.1.
            report: is told, once the frames are at their end, what was broken.

        Raises:
            SettingError: ``fps`` is no number above 0.
            FileFormatError: not one frame can be decoded, or it has more pixels than a picture may have.
        """
        rate = checked_rate(fps)
        return self._frames(rate, report)

    def _opened(self) -> Any:
        av = needs("av", "video")
        if not self.path.exists():
            raise PictureNotFoundError(f"no such video: {self.path}; expected the path of a video file.")
        if not self.path.is_file():
            raise FileFormatError(f"{self.path} is a folder, a device or a pipe; expected a video file.")
        try:
            # A file, whatever its name looks like; from a file FFmpeg follows playlists to no server.
            if _is_live(self.path):
                raise ValueError("a playlist without an end")
            container = av.open(f"file:{self.path}", timeout=SECONDS_TO_OPEN)
        except (av.error.FFmpegError, ValueError) as error:
            raise FileFormatError(
                f"{self.path} cannot be read as a video ({_said(error)}); expected a file that FFmpeg reads, such as "
                "MP4, MOV, Matroska or WebM."
            ) from error
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            container.close()
            raise FileFormatError(f"{self.path} has no video stream (its streams: {kinds}); expected a video.")
        return container

    def _frames(self, rate: Fraction, report: Report) -> Iterator[Frame]:
        with self._opened() as container:
            decoding, picture = _Decoding(container), _Pictures(container, self.path)
            held: tuple[int, Any] | None = None
            count = 0
            for time, index, frame in decoding:
                while held is not None and count / rate + SLACK < time and not decoding.beyond(count):
                    yield Frame(float(count / rate), held[0], picture(held[1]))
                    count += 1
                if decoding.beyond(count):
                    break
                held = index, frame
            while held is not None and (count == 0 or count / rate + SLACK < decoding.end) and count < MOST_FRAMES:
                yield Frame(float(count / rate), held[0], picture(held[1]))
                count += 1
        if held is None:
            raise FileFormatError(
                f"{self.path} holds no frame that can be decoded{decoding.reason()}; expected a video with one frame "
                "or more."
            )
        broken = decoding.broken(self.duration)
        if broken:
            report(f"{self.path}: {broken}; the frames that could be read were kept.")


class _Decoding:
    """The frames of a file in the order in which they are shown: seconds since the first, number, frame.

    Attributes:
        end: when the last one that came is no longer shown.
    """

    def __init__(self, container: Any) -> None:
        self.container = container
        self.end = Fraction(0)
        self._failed = 0
        self._first_failure = ""
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[Fraction, int, Any]]:
        stream = self.container.streams.best("video")
        stream.thread_type = "AUTO"
        usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        first: Fraction | None = None
        lasting: dict[int, Fraction] = {}
        index = 0
        for packet in self._packets(stream):
            if packet.pts is not None and packet.duration:
                lasting[packet.pts] = packet.duration * packet.time_base
            for frame in self._decoded(packet):
                lasts = usual if frame.pts is None else min(lasting.pop(frame.pts, usual), Fraction(LONGEST_SHOWN))
                shown = (first or 0) + self.end if frame.pts is None else Fraction(frame.pts) * frame.time_base
                first = shown if first is None else first
                if shown - first > self.end + LONGEST_SHOWN:
                    self._stop(
                        f"the next frame is {float(shown - first - self.end):,.0f} s later, and {LONGEST_SHOWN:,} "
                        "s is the longest that one may be shown"
                    )
                    return
                self.end = max(self.end, shown - first + lasts)
                yield shown - first, index, frame
                index += 1
            if len(lasting) > MOST_WAITING:  # of packets that gave no frame
                lasting.clear()

    def _packets(self, stream: Any) -> Iterator[Any]:
        try:
            yield from self.container.demux(stream)
        except needs("av").error.FFmpegError as error:
            self._fail(error)
            self._stopped = True

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames = packet.decode()
        except needs("av").error.FFmpegError as error:
            self._fail(error)
            return []
        for frame in frames:
            if frame.is_corrupt:
                self._fail("damaged")
        return frames

    def beyond(self, count: int) -> bool:
        """Whether as many frames are more than anybody looks at; then there are no more."""
        if count >= MOST_FRAMES and not self._stopped:
            self._stop(f"more than {MOST_FRAMES:,} frames; give a lower fps")
        return count >= MOST_FRAMES

    def _stop(self, reason: str) -> None:
        self._failed += 1
        self._first_failure = f"at {float(self.end):.2f} s: {reason}"  # of all that is wrong what ended it
        self._stopped = True

    def _fail(self, error: object) -> None:
        self._failed += 1
        self._first_failure = self._first_failure or f"at {float(self.end):.2f} s: {_said(error)}"

    def reason(self) -> str:
        return f" ({self._first_failure})" if self._failed else ""

    def broken(self, duration: float | None) -> str:
        """What was wrong, in words; empty where nothing was."""
        end = float(self.end)
        if self._stopped:
            return f"broken {self._first_failure}"
        if duration is not None and duration - end > max(SHORT, SHORT_SHARE * duration):
            return f"it ends at {end:.2f} s, and should at {duration:.2f} s{self.reason()}"
        return f"{self._failed} frames are broken, the first {self._first_failure}" if self._failed else ""


def spread(frames: Iterable[Frame], most: int) -> list[Frame]:
    """Frames at equal distances, ``most`` or a little more than half as many, the same of the same video.

    Example:
        >>> from sclip_plugin.video.reading import spread
        >>> spread(range(100), 8)
        [0, 16, 32, 48, 64, 80, 96]
    """
    kept: list[Frame] = []
    step = 1
    for number, frame in enumerate(frames):
        if number % step:
            continue
        kept.append(frame)
        if len(kept) > most:
            kept, step = kept[::2], 2 * step
    return kept


def checked_rate(fps: float) -> Fraction:
    """Frames a second as a fraction, exact to a millionth.

    >>> checked_rate(0.1)
    Fraction(1, 10)
    """
    number = isinstance(fps, (int, float, Fraction, np.number)) and not isinstance(fps, bool)
    if not number or not math.isfinite(fps) or not 1e-5 <= fps <= 1000:
        raise SettingError(
            f"fps={fps!r}; expected how many frames a second are looked at, a number above 0 (0.00001 to 1000): 1 for "
            "one a second, 0.1 for one in ten seconds."
        )
    return Fraction(fps).limit_denominator(10**6)


class _Pictures:
    """Decoded frames to RGB, turned as the file says, with square pixels."""

    def __init__(self, container: Any, path: Path) -> None:
        self.path = path
        self.reformatter = needs("av.video.reformatter", "video").VideoReformatter()
        self.aspect = Fraction(container.streams.best("video").sample_aspect_ratio or 1) or Fraction(1)

    def __call__(self, frame: Any) -> Image.Image:
        width = round(frame.width * max(self.aspect, Fraction(1)))
        height = round(frame.height / min(self.aspect, Fraction(1)))
        _check_pixels(self.path, width, height)
        # Of RGB the last says nothing, but older releases look at the frame's own only where one is named.
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", dst_colorspace="ITU601")
        return Image.fromarray(np.ascontiguousarray(_upright(rgb.to_ndarray(), frame)))


def _check_pixels(path: Path, width: int, height: int) -> None:
    """The limit is that of pictures."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise FileFormatError(
            f"{path} has frames of {width} x {height}, {width * height:,} pixels; the limit is {limit:,}. If you trust "
            "it, make a smaller copy, or set PIL.Image.MAX_IMAGE_PIXELS in Python."
        )


def _is_live(path: Path) -> bool:
    """Whether a file is a playlist of HLS that has no end: FFmpeg reads it again and again."""
    with open(path, "rb") as file:
        head = file.read(2**20)
    return head.lstrip(b"\xef\xbb\xbf").startswith(b"#EXTM3U") and b"#EXT-X-ENDLIST" not in head


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Pixels turned and mirrored by the frame's display matrix: (x, y) goes to (a x + c y, b x + d y), shifted."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(b) > abs(a):  # rows become columns
                pixels, a, d = pixels.transpose(1, 0, 2), c, b
            return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return pixels


def _said(error: object) -> str:
    return str(getattr(error, "strerror", None) or error)
