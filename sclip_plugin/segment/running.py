"""Pictures' windows through the tower, in batches that several pictures share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..dense import dense_and_embedding, image_embeddings, projected
from ..device import Budget, budget, without_autocast
from ..errors import NotFiniteError, PictureError
from ..imaging.resampling import normalise
from ..methods import Method
from ..settings import Settings
from ..towers import Tower
from ..towers.running import WholePicture, Window
from .regions import masks_in, regions_of
from .views import engineered
from .windows import WindowPlan

PICTURES_AT_ONCE = 16

Prepared = tuple[Image.Image | None, Tensor, tuple[int, int]]
"""A picture (None where only its pixels are known), its pixels (3, H, W) as the tower shall see them, and the size
(height, width) of its label map."""


@dataclass(eq=False)
class Seen:
    """A picture whose windows went through the tower.

    Attributes:
        picture, pixels, output_size: as prepared.
        plan: how it was cut.
        kept: (gh, gw, C), of all windows side by side what was kept of each patch.
        windows: (n, D), the unit image embedding of each window; None unless asked for.
        image: (D,), that of the whole picture.
        regions: the id map of the settings' masks, (height, width) of the label map, when it is called.
    """

    picture: Image.Image | None
    pixels: Tensor
    output_size: tuple[int, int]
    plan: WindowPlan
    kept: Tensor
    windows: Tensor | None = None
    image: Tensor | None = None
    waiting: int = 0
    whole: WholePicture | None = None
    regions: Callable[[], np.ndarray] | None = None


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
        embeddings: bool = False,
        unit: bool = True,
    ) -> Iterator[Seen | PictureError]:
        """Each picture once all its windows are done, in order.

        Args:
            pictures: read as they are needed, at most 16 ahead. An error in the place of a picture comes out as it is.
            method: bound to what it needs.
            settings: of which the window and the stride are used.
            keep: what is kept of the patches' unit features: (B, h w, D) float32 to (B, h w, C).
            embeddings: give the image embeddings of windows and pictures too.
            unit: features are made unit vectors before they are kept.

        Raises:
            PictureError: pixels smaller than a patch.
            NotFiniteError: features that are no numbers.
        """
        jobs: deque[Seen | PictureError] = deque()
        windows: deque[tuple[Seen, int, tuple[int, int, int, int]]] = deque()
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
            plan = plan_of(size, settings, self.tower.patch_size, method)
            plan.check_cost(output_size)
            job = Seen(picture, pixels, output_size, plan, torch.empty(0), waiting=len(plan))
            masks = masks_in(picture, pixels, settings)
            job.regions = regions_of(masks, output_size)
            job.whole = WholePicture(
                pixels, picture, settings.window, settings.window_stride, job.regions, self.limits, masks
            )
            jobs.append(job)
            windows.extend((job, index, box) for index, box in enumerate(plan.boxes()))
            while windows and (
                len(windows) >= self._at_once(windows[0][0].plan, method) or len(jobs) >= PICTURES_AT_ONCE
            ):
                self._run_batch(windows, method, settings, keep, embeddings, unit)
            while jobs and not _waits(jobs[0]):
                yield self._checked(jobs.popleft(), settings)
        while jobs:
            while _waits(jobs[0]):
                self._run_batch(windows, method, settings, keep, embeddings, unit)
            yield self._checked(jobs.popleft(), settings)

    def _at_once(self, plan: WindowPlan, method: Method) -> int:
        if method.windows_itself:
            return 1
        return max(1, (self.limits or budget(self.device)).tokens // method.tokens_at_once(self.tower, plan.padded))

    def _run_batch(
        self,
        windows: deque[tuple[Seen, int, tuple[int, int, int, int]]],
        method: Method,
        settings: Settings,
        keep: Callable[[Tensor], Tensor],
        embeddings: bool,
        unit: bool,
    ) -> None:
        """Take the first windows of one size through the tower, and put what is kept into their pictures' places."""
        batch = [windows.popleft()]
        plan = batch[0][0].plan
        at_once = self._at_once(plan, method)
        while windows and len(batch) < at_once and windows[0][0].plan.window == plan.window:
            batch.append(windows.popleft())
        pixels = torch.stack([job.plan.cut(job.pixels, *box) for job, _, box in batch]).to(self.device)
        pixels = plan.pad(normalise(pixels, self.mean, self.std), -self.mean / self.std)
        places = [Window(job.whole, box) for job, _, box in batch if job.whole is not None]
        # Of a method that cuts windows itself the one window is the picture, which is embedded below.
        of_windows = embeddings and not method.windows_itself
        features, context, embedded = projected(self.tower, pixels, method, places, of_windows)
        grid = context.output_grid or context.grid
        vectors = F.normalize(features.float(), dim=2) if unit else features.float()
        if settings.image_engineering is not None:

            def look(changed: Tensor) -> Tensor:
                return dense_and_embedding(self.tower, changed, method, (), embedding=False)[0]

            vectors = engineered(pixels, features.mT.unflatten(2, grid), look, settings.image_engineering)
        with without_autocast(self.device):
            kept = keep(vectors)
            if context.spread is not None:
                kept = torch.stack([context.spread(rows) for rows in kept]).flatten(1, 2)
            embedded = None if embedded is None else F.normalize(embedded.float(), dim=1)
        for place, ((job, index, _), values) in enumerate(zip(batch, kept, strict=True)):
            if job.waiting == len(job.plan):
                job.plan = job.plan.with_patches(grid)
                job.kept = job.plan.empty_logits(kept.shape[2], kept)
                if embedded is not None:
                    job.windows = embedded.new_empty(len(job.plan), embedded.shape[1])
            job.plan.place(job.kept, index).copy_(values.unflatten(0, grid))
            if job.windows is not None and embedded is not None:
                job.windows[index] = embedded[place]
            job.waiting -= 1
            if not job.waiting:
                job.whole = None  # with what the method kept of the picture
        if embeddings:
            self._embed_pictures([job for job, *_ in batch if not job.waiting])

    def _embed_pictures(self, jobs: list[Seen]) -> None:
        """The image embedding of each picture, squashed to the model's native size, if it has none yet."""
        jobs = [job for job in dict.fromkeys(jobs) if job.image is None]
        if not jobs:
            return
        native = tuple(side * patch for side, patch in zip(self.tower.native_grid, self.tower.patch_size, strict=True))
        pixels = torch.cat(
            [
                F.interpolate(normalise(job.pixels, self.mean, self.std)[None], native, mode="bilinear", antialias=True)
                for job in jobs
            ]
        )
        with without_autocast(self.device):
            embedded = F.normalize(image_embeddings(self.tower, pixels.to(self.device)).float(), dim=1)
        for job, image in zip(jobs, embedded, strict=True):
            job.image = image
            job.windows = image[None].clone() if job.windows is None else job.windows

    def _checked(self, job: Seen | PictureError, settings: Settings) -> Seen | PictureError:
        if isinstance(job, Seen) and not torch.isfinite(job.kept).all():
            dtype = str(next(self.tower.trunk.parameters()).dtype).removeprefix("torch.")
            raise NotFiniteError(
                f"the model's features are not numbers (NaN or infinite), with weights in {dtype} and method "
                f"{settings.method_name}. In half precision that is an overflow: load the model in float32 or bfloat16."
            )
        return job


def plan_of(size: tuple[int, int], settings: Settings, patch_size: tuple[int, int], method: Method) -> WindowPlan:
    """How settings cut a picture of ``size`` for a method."""
    black = settings.remainder == "black"
    return WindowPlan.of(size, settings.window, settings.window_stride, patch_size, method, black)


def _waits(job: Seen | PictureError) -> bool:
    return isinstance(job, Seen) and job.waiting > 0
