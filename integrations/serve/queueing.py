"""One thread that owns the model: what several clients ask at once goes through the tower together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sclip_plugin.errors import SclipError
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.settings import Settings
from sclip_plugin.text.labels import Labels


class Busy(SclipError):
    """More is waiting than the server takes on."""


@dataclass
class Job:
    """A picture to encode, or to segment where labels are given; a question about an encoded one; or any ``call``.

    Fields:
        names: say so many names of what the labels, which are ``@auto``, find; 0: segment.
    """

    settings: Settings
    picture: Image.Image | None = None
    encoded: Encoded | None = None
    labels: Labels | None = None
    names: int = 0
    call: Callable[[Segmenter], Any] | None = None
    answer: Future[Any] = field(default_factory=Future)


class TowerQueue:
    """Jobs in, answers out, in the order of their coming.

    Args:
        segmenter: used by this queue's thread alone.
        together: how many jobs are taken at once.
        waiting: how many may wait; more are refused.
    """

    def __init__(self, segmenter: Segmenter, together: int = 16, waiting: int = 64) -> None:
        self.segmenter = segmenter
        self.together = together
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="sclip tower", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> Future[Any]:
        """The answer to come: a `Segmentation` where the job has labels, else an `Encoded`; or what ``call`` gives.

        Raises:
            Busy: too many are waiting.
        """
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy(f"{self._jobs.maxsize} requests are waiting; ask again in a moment.") from None
        return job.answer

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        for batch in self._batches():
            # Who has gone meanwhile cancelled the answer.
            asked = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            self._encode([job for job in asked if job.encoded is None and job.call is None])
            for job in asked:
                if not job.answer.done():
                    self._finish(job)

    def _batches(self) -> Iterator[list[Job]]:
        while True:
            batch = [self._jobs.get()]
            while len(batch) < self.together and batch[-1] is not None:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            yield [job for job in batch if job is not None]
            if batch[-1] is None:
                return

    def _encode(self, jobs: list[Job]) -> None:
        """Give each job its encoded picture; those with the same settings share the tower's batches."""
        groups: dict[str, list[Job]] = {}
        for job in jobs:
            if not job.settings.make_method().needs_text:
                groups.setdefault(job.settings.identity(), []).append(job)
        for group in groups.values():
            try:
                pictures = [job.picture for job in group if job.picture is not None]
                seen = self.segmenter.encode(pictures, group[0].settings, dtype=torch.float32)
                for job, encoded in zip(group, seen, strict=True):
                    job.encoded = encoded
            except Exception as error:  # of the model, or memory: each who asked is told, and the thread goes on
                for job in group:
                    job.answer.set_exception(error)

    def _finish(self, job: Job) -> None:
        try:
            answer: Any = job.encoded
            if job.call is not None:
                answer = job.call(self.segmenter)
            elif answer is None:  # the method needs the words; where there are none `encode` says so
                assert job.picture is not None, "a job has a picture, or what was seen of one"
                if job.labels is None or job.names:
                    answer = self.segmenter.encode(job.picture, job.settings)
                else:
                    answer = self.segmenter(job.picture, job.labels, job.settings)
            elif job.names:
                answer = self.segmenter.names(answer, job.names, job.labels)
            elif job.labels is not None:
                answer = answer.segment(job.labels, job.settings)
        except Exception as error:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(answer)
