"""When in a video words are seen, and where: each frame answers as a picture of an index does."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..index.presence import null_of_regions, numbers
from ..index.regions import cosines, reduced
from ..index.results import Hit
from ..index.searching import Question
from ..settings import Settings
from .reading import Frame, Report, Video, spread
from .segmenting import noted

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter
    from ..steps import Presence
    from ..text.labels import Vocabulary

    Words = str | Sequence[str | Sequence[str]] | Mapping[str, Any] | Vocabulary

SAMPLE = 20  # frames that presence is learned from
SEEN = 0.75
"""Words are seen where a frame's score is above three quarters of the way from the video's lowest to its highest."""


@dataclass(frozen=True)
class Moment:
    """A stretch of a video in which words are seen.

    Attributes:
        start, end: in seconds, of its first frame and of the first one behind it.
        time: of the frame that answers best.
        index: of that frame in the file.
        hit: its answer: `Hit.score`, `Hit.scores` of each word, `Hit.presence`, `Hit.box`, `Hit.heat`, `Hit.mask`.
    """

    start: float
    end: float
    time: float
    index: int
    hit: Hit

    @property
    def score(self) -> float:
        """What moments are ranked by."""
        return self.hit.score

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        said = self.hit.to_dict()
        del said["path"], said["file"]
        return {"start": self.start, "end": self.end, "time": self.time, "frame": self.index, **said}


@dataclass(frozen=True, eq=False)
class Seen:
    """What a frame answers: its time, its number in the file, and the answer; not its picture."""

    time: float
    index: int
    hit: Hit


def search_video(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    words: Words,
    settings: Settings | None = None,
    *,
    fps: float = 1.0,
    report: Report = warnings.warn,
    **changes: Any,
) -> list[Moment]:
    """Find when in a video words are seen, and where in the picture.

    Each frame's score is that of a picture in an index, `Index.search`: the cosine of a word with the frame's best
    region, of several words the lowest. A moment is a stretch of frames that lie above three quarters of the way from
    the lowest score in the video to the highest. So the best moments come first; that there is one does not say that
    the words are there: its `Hit.presence` does, by a null of twenty frames at equal distances, which are looked at
    first. It is None in a film of fewer than five frames.

    Args:
        segmenter: any.
        path: of a video file.
        words: one word; a list of them, which all have to be there, a list in it joins synonyms; or a dict of names to
            class vectors, as `Segmenter.vector_of` gives them.
        settings, changes: as for a segmenter's call.
        fps: frames a second that are looked at; see `Video.frames`.
        report: is told, at the end, what was broken; a warning by default.

    Returns:
        Moments, the best first.

    Raises:
        PictureNotFoundError, FileFormatError: no such file, or none that can be read as a video.
        SettingError: ``fps`` out of range, a setting, or a method whose features depend on the words.
        LabelError: no words.
        MissingPackageError: without the extra ``video``.

    Example:
        >>> import tempfile, pathlib, sclip_plugin as sp
        >>> from sclip_plugin.video.writing import write_video
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "film.mp4"
        ...     with write_video(path, fps=1) as film:
        ...         for seed in range(4):
        ...             film.add(sp.draw_scene(seed).picture)
        ...     best = sp.search_video(seg, path, "fox")[0]
        >>> best.start, best.end
        (2.0, 3.0)
    """
    return moments(search_frames(segmenter, path, words, settings, fps=fps, report=report, **changes), fps)


def search_frames(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    words: Words,
    settings: Settings | None = None,
    *,
    fps: float = 1.0,
    report: Report = warnings.warn,
    **changes: Any,
) -> Iterator[Seen]:
    """What each frame answers, as it is looked at. Arguments as for `search_video`."""
    video = Video(path)
    frames = video.frames(fps, report)
    chosen = (settings or segmenter.settings).changed(**changes)
    labels: Any = [words] if isinstance(words, str) else words
    vocabulary, vectors = segmenter.text_embeddings(labels, chosen.changed(background=False))
    of_names = np.array(vocabulary.class_of_name), np.array(vocabulary.constants_of_names(), np.float32)
    given = frozenset(vocabulary.class_of_name[index] for index, _ in vocabulary.vectors)
    question = Question(vocabulary.labels, vectors.float().cpu().numpy(), *of_names, given)
    sample = (frame.picture for frame in spread(video.frames(fps, lambda _: None), SAMPLE))
    kept = [reduced(encoded.features(), encoded.image) for encoded in segmenter.encode(sample, chosen)]
    null = null_of_regions([each.vectors * each.scales[:, None] for each in kept], segmenter, chosen)
    waiting: deque[Frame] = deque()
    answers = segmenter.encode(noted(frames, waiting), chosen)
    return (_seen(waiting.popleft(), encoded, question, video, null) for encoded in answers)


def _seen(frame: Frame, encoded: Any, question: Question, video: Video, null: Presence | None) -> Seen:
    kept = reduced(encoded.features(), encoded.image)
    regions = question.of_words(cosines(kept.vectors, kept.scales, question.vectors))
    best = regions.max(axis=0)
    scores = dict(zip(question.words, map(float, best), strict=True))
    score = float(question.ranked_by(best[None])[0])
    there = numbers(null, kept.vectors * kept.scales[:, None], question)
    hit = Hit(video.path.name, video.path, score, scores, encoded.size, kept.map, regions, there, null)
    return Seen(frame.time, frame.index, hit)


def moments(found: Iterable[Seen], fps: float) -> list[Moment]:
    """The stretches of frames in which words are seen, the best first; `search_video` says which those are.

    Args:
        found: all frames of a video, in order.
        fps: at which they were looked at.
    """
    seen = list(found)
    scores = np.array([each.hit.score for each in seen])
    above = scores >= scores.min() + SEEN * (scores.max() - scores.min())
    begins = np.flatnonzero(above & ~np.concatenate([[False], above[:-1]]))
    ends = np.flatnonzero(above & ~np.concatenate([above[1:], [False]])) + 1
    out = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        best = seen[begin + int(scores[begin:end].argmax())]
        out.append(Moment(seen[begin].time, seen[end - 1].time + 1 / fps, best.time, best.index, best.hit))
    return sorted(out, key=lambda moment: -moment.score)
