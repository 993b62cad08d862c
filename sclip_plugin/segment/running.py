"""Pictures' windows through the tower, in batches that several pictures share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..dense import dense_features
from ..device import Budget, budget, without_autocast
from ..errors import NotFiniteError, PictureError
from ..imaging.resampling import normalise
from ..methods import Method
from ..settings import Settings
from ..towers import Tower
from .windows import WindowPlan

PICTURES_AT_ONCE = 16

Prepared = tuple[Image.Image | None, Tensor, tuple[int, int]]
"""A picture (None where only its pixels are known), its pixels (3, H, W) as the tower shall see them, and the size
(height, width) of its label map."""


@dataclass
class Seen:
    """A picture whose windows went through the tower.

    Attributes:
        picture, pixels, output_size: as prepared.
        plan: how it was cut.
        kept: (gh, gw, C), of all windows side by side what was kept of each patch.
    """

    picture: Image.Image | None
    pixels: Tensor
    output_size: tuple[int, int]
    plan: WindowPlan
    kept: Tensor
    waiting: int = 0


@dataclass
class WindowRunner:
    """What runs the windows.

    Fields:
        tower: of the model.
        mean, std: (3,), to normalise pixels with.
        limits: how much is computed at once; what suits the device where None.
    """

    tower: Tower
    mean: Tensor
    std: Tensor
    limits: Budget | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is; whoever holds it may move it at any time."""
        return next(self.tower.trunk.parameters()).device

    def run(
        self,
        pictures: Iterable[Prepared | PictureError],
        method: Method,
        settings: Settings,
        keep: Callable[[Tensor], Tensor],
    ) -> Iterator[Seen | PictureError]:
        """Each picture once all its windows are done, in order.

        Args:
            pictures: read as they are needed, at most 16 ahead. An error in the place of a picture comes out as it is.
            method: bound to what it needs.
            settings: of which the window and the stride are used.
            keep: what is kept of the patches' unit features: (B, h w, D) float32 to (B, h w, C).

        Raises:
            PictureError: pixels smaller than a patch.
            NotFiniteError: features that are no numbers.
        """
        jobs: deque[Seen | PictureError] = deque()
        windows: deque[tuple[Seen, int, tuple[int, int]]] = deque()
        for prepared in pictures:
            if isinstance(prepared, PictureError):
                jobs.append(prepared)
                continue
            picture, pixels, output_size = prepared
            if min(pixels.shape[-2:]) < max(self.tower.patch_size):
                raise PictureError(
                    f"pixels of shape {tuple(pixels.shape)} are smaller than a patch {self.tower.patch_size}."
                )
            size = (pixels.shape[-2], pixels.shape[-1])
            plan = WindowPlan.of(size, settings.window, settings.window_stride, self.tower.patch_size)
            plan = plan.under(method, self.tower)
            job = Seen(picture, pixels, output_size, plan, torch.empty(0), len(plan))
            jobs.append(job)
            windows.extend((job, index, box) for index, box in enumerate(plan.boxes()))
            while windows and (len(windows) >= self._at_once(windows[0][0].plan) or len(jobs) >= PICTURES_AT_ONCE):
                self._run_batch(windows, method, keep)
            while jobs and not _waits(jobs[0]):
                yield self._checked(jobs.popleft(), settings)
        while jobs:
            while _waits(jobs[0]):
                self._run_batch(windows, method, keep)
            yield self._checked(jobs.popleft(), settings)

    def _at_once(self, plan: WindowPlan) -> int:
        tokens = plan.patches[0] * plan.patches[1] + self.tower.prefix_tokens
        return max(1, (self.limits or budget(self.device)).tokens // tokens)

    def _run_batch(
        self, windows: deque[tuple[Seen, int, tuple[int, int]]], method: Method, keep: Callable[[Tensor], Tensor]
    ) -> None:
        """Take the first windows of one size through the tower, and put what is kept into their pictures' places."""
        batch = [windows.popleft()]
        plan = batch[0][0].plan
        while windows and len(batch) < self._at_once(plan) and windows[0][0].plan.window == plan.window:
            batch.append(windows.popleft())
        pixels = torch.stack([job.plan.cut(job.pixels, *box) for job, _, box in batch]).to(self.device)
        pixels = plan.pad(normalise(pixels, self.mean, self.std))
        features = dense_features(self.tower, pixels, method, allow_remainder=True)
        with without_autocast(self.device):
            kept = keep(F.normalize(features.flatten(2).float(), dim=1).transpose(1, 2))
        for (job, index, _), values in zip(batch, kept, strict=True):
            if job.waiting == len(job.plan):
                job.kept = job.plan.empty_logits(kept.shape[2], kept)
            job.plan.place(job.kept, index).copy_(values.unflatten(0, plan.patches))
            job.waiting -= 1

    def _checked(self, job: Seen | PictureError, settings: Settings) -> Seen | PictureError:
        if isinstance(job, Seen) and not torch.isfinite(job.kept).all():
            dtype = str(next(self.tower.trunk.parameters()).dtype).removeprefix("torch.")
            raise NotFiniteError(
                f"the model's features are not numbers (NaN or infinite), with weights in {dtype} and method "
                f"{settings.method_name}. In half precision that is an overflow: load the model in float32 or bfloat16."
            )
        return job


def _waits(job: Seen | PictureError) -> bool:
    return isinstance(job, Seen) and job.waiting > 0
