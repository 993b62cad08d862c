"""The labels of a video, frame by frame."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..settings import Settings
from ..text.labels import Labels
from .reading import Frame, Report, Video

if TYPE_CHECKING:
    from ..segment.segmentation import Segmentation
    from ..segment.segmenter import Segmenter


def segment_video(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    labels: Labels | None = None,
    settings: Settings | None = None,
    *,
    fps: float = 1.0,
    smoothing: float = 0.0,
    report: Report = warnings.warn,
    **changes: Any,
) -> Iterator[tuple[Frame, Segmentation]]:
    """Segment a video, some frames a second, one after the other as they are asked for.

    Windows of several frames share batches, so up to 16 frames are read ahead; no more are ever held.

    Args:
        segmenter: any.
        path: of a video file.
        labels, settings, changes: as for a segmenter's call.
        fps: frames a second that are looked at; see `Video.frames`.
        smoothing: the share of the frames before in each frame's scores, from 0 (each by itself) to below 1; see
            `Segmenter.stream`.
        report: is told, at the end, what was broken; a warning by default.

    Returns:
        An iterator of frames, with the time of each, and their segmentations.

    Raises:
        PictureNotFoundError, FileFormatError: no such file, or none that can be read as a video.
        SettingError: ``fps`` or ``smoothing`` out of range, or a setting.
        LabelError: as for a segmenter's call.
        MissingPackageError: without the extra ``video``.

    Example:
        >>> import tempfile, pathlib, sclip_plugin as sp
        >>> from sclip_plugin.video.writing import write_video
        >>> scene = sp.draw_scene(seed=7)
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "film.mp4"
        ...     with write_video(path, fps=1) as film:
        ...         for _ in range(3):
        ...             film.add(scene.picture)
        ...     stream = sp.segment_video(seg, path, scene.labels)
        ...     [(frame.time, set(result.areas()) == set(scene.labels)) for frame, result in stream]
        [(0.0, True), (1.0, True), (2.0, True)]
    """
    frames = Video(path).frames(fps, report)
    waiting: deque[Frame] = deque()
    results = segmenter.stream(noted(frames, waiting), labels, settings, smoothing=smoothing, **changes)
    return ((waiting.popleft(), result) for result in results)


def noted(frames: Iterator[Frame], waiting: deque[Frame]) -> Iterator[Image.Image]:
    """The pictures of frames, each of which waits for its result from the time when its picture is taken."""
    for frame in frames:
        waiting.append(frame)
        yield frame.picture
