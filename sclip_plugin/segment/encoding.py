"""Looking: pictures through windows and the tower, in batches that several pictures share. It knows no words.

picture -> prepare -> windows -> tower up to its last block -> method -> features, or scores, of the patches
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..dense import Reach, dense_and_embedding, image_embeddings, projected
from ..device import Budget, budget, without_autocast
from ..errors import NotFiniteError, PictureError, SettingError
from ..imaging.pictures import Picture, read_picture, to_tensor
from ..imaging.resampling import normalise, resize, target_size
from ..methods import Method
from ..methods.stitched import Stitched
from ..settings import Settings
from ..steps import Step
from ..towers import Tower
from ..towers.running import Context, WholePicture, Window
from .regions import masks_in, regions_of
from .views import engineered
from .windows import WindowPlan

PICTURES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that is read and resized. `Segmenter` accepts it in place of a picture; a worker process may make it.

    Attributes:
        picture: the given picture, RGB; None if only pixels are known.
        pixels: (3, H, W), the resized picture that windows are cut from: uint8, or floating point and normalised.
        size: (height, width) of the label map in pixels.

    Example:
        >>> import torch, sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> pixels = torch.zeros(3, 96, 128, dtype=torch.uint8)
        >>> seg(sp.Prepared(None, pixels, (48, 64)), ["cat", "grass"]).label_map.shape
        (48, 64)
    """

    picture: Image.Image | None
    pixels: Tensor
    size: tuple[int, int]


@dataclass(eq=False, kw_only=True)
class Look:
    """An encoded picture: what its windows gave.

    Attributes:
        picture, pixels, size: as in `Prepared`; None if unknown.
        plan: the windows of the picture.
        vectors: (gh, gw, C), all windows' patches side by side: unit features, or scores if the words were known
            beforehand.
        windows: (n, D), unit image embedding of each window, as the model itself pools it; None unless requested.
        image: (D,), unit image embedding of the whole picture, resized to the model's native size.
        looked: results of `Step.look` for each window, (n, ...), by `key_of` the step.
    """

    picture: Image.Image | None = field(default=None, repr=False)
    pixels: Tensor | None = field(default=None, repr=False)
    size: tuple[int, int]
    plan: WindowPlan = field(repr=False)
    vectors: Tensor = field(repr=False)
    windows: Tensor | None = field(default=None, repr=False)
    image: Tensor | None = field(default=None, repr=False)
    looked: dict[str, Tensor] = field(default_factory=dict, repr=False)


def key_of(step: Step) -> str:
    """Key of a step's results in `Look.looked`; equal steps have equal keys."""
    return json.dumps(step.identity(), sort_keys=True)


def looking_steps(settings: Settings, depth: int) -> list[Step]:
    """The steps that tap blocks of the tower."""
    return [step for step in settings.make_steps() if step.taps(depth)]


@dataclass(eq=False)
class _Job:
    """A picture on its way: its look, what is left of its windows, and what methods keep of it."""

    look: Look
    waiting: int
    whole: WholePicture | None = None
    parts: dict[str, list[Tensor]] = field(default_factory=dict)


_Waiting = deque[tuple[_Job, int, tuple[int, int, int, int]]]


@dataclass(frozen=True)
class Run:
    """One run of windows through the tower.

    Fields:
        method: the method, after `Method.bind`.
        settings: how to look.
        keep: function from the patches' features (B, h w, D) float32 to the values to keep (B, h w, C).
        embeddings: also compute the image embeddings of windows and pictures.
        unit: normalise features to unit length before ``keep``.
        steps: the steps that tap blocks of the tower.
    """

    method: Method
    settings: Settings
    keep: Callable[[Tensor], Tensor]
    embeddings: bool = False
    unit: bool = True
    steps: tuple[Step, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the method receives whole pictures, one at a time."""
        return self.method.takes_whole_pictures or self.settings.stitched

    def reach(self, depth: int) -> Reach:
        """Function that runs the tower up to its last block, with the taps of method and steps."""
        taps = tuple(sorted({tap for step in self.steps for tap in step.taps(depth)}))
        if self.settings.stitched:
            return Stitched(self.method, taps)
        return lambda tower, pixels, windows: self.method.reach_last_block(tower, pixels, None, windows, taps)


@dataclass
class Encoder:
    """An image tower, with its normalisation and batch sizes.

    Fields:
        tower: the model's image tower.
        mean, std: (3,), normalisation of pixels, in float32 whatever the tower's precision.
        limits: batch and tile sizes; None: the device's defaults.
    """

    tower: Tower
    mean: Tensor
    std: Tensor
    limits: Budget | None = None

    @property
    def device(self) -> torch.device:
        """The model's device, which may change at any time."""
        return next(self.tower.trunk.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.tower.trunk.parameters()).dtype

    def prepare(
        self, picture: Picture | Prepared, settings: Settings, device: torch.device, paths: bool = True
    ) -> Prepared:
        """Read and resize a picture; a `Prepared` one is returned unchanged."""
        if isinstance(picture, Prepared):
            return picture
        rgb = read_picture(picture, paths=paths)
        size = (rgb.height, rgb.width)
        short = settings.resize_short_side
        target = target_size(*size, short, settings.resize_long_side) if short else size
        # A side of less than one patch is stretched to one, so that thin pictures can be segmented, too.
        patch = self.tower.patch_size
        target = (max(target[0], patch[0]), max(target[1], patch[1]))
        name = getattr(rgb, "filename", "") or "the picture"
        plan_of(target, settings, patch, settings.make_method()).check_cost(size, name)
        return Prepared(rgb, resize(to_tensor(rgb).to(device), target), size)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) to the model's own unit image embeddings (B, D)."""
        return F.normalize(image_embeddings(self.tower, pixels.to(self.device)).float(), dim=1)

    def run(self, pictures: Iterable[Prepared | PictureError], asked: Run) -> Iterator[Look | PictureError]:
        """Yield pictures in order, each after all of its windows.

        Pictures are read on demand, at most 16 ahead. An error in place of a picture is passed on.

        Raises:
            PictureError: the picture is smaller than a patch.
            NotFiniteError: features are NaN or infinite.
        """
        jobs: deque[_Job | PictureError] = deque()
        windows: _Waiting = deque()
        for prepared in pictures:
            if isinstance(prepared, PictureError):
                jobs.append(prepared)
                continue
            job = self._job(prepared, asked)
            jobs.append(job)
            windows.extend((job, index, box) for index, box in enumerate(job.look.plan.boxes()))
            while windows and (
                len(windows) >= self._at_once(windows[0][0].look.plan, asked) or len(jobs) >= PICTURES_AT_ONCE
            ):
                self._run_batch(windows, asked)
            while jobs and not _waits(jobs[0]):
                yield self._done(jobs.popleft(), asked)
        while jobs:
            while _waits(jobs[0]):
                self._run_batch(windows, asked)
            yield self._done(jobs.popleft(), asked)

    def _job(self, prepared: Prepared, asked: Run) -> _Job:
        pixels, settings = prepared.pixels, asked.settings
        if min(pixels.shape[-2:]) < max(self.tower.patch_size):
            raise PictureError(
                f"pixels of shape {tuple(pixels.shape)} are smaller than a patch {self.tower.patch_size}."
            )
        plan = plan_of((pixels.shape[-2], pixels.shape[-1]), settings, self.tower.patch_size, asked.method)
        size = (prepared.size[0], prepared.size[1])
        plan.check_cost(size)
        look = Look(picture=prepared.picture, pixels=pixels, size=size, plan=plan, vectors=torch.empty(0))
        masks = masks_in(prepared.picture, pixels, settings)
        regions = regions_of(masks, look.size)
        whole = WholePicture(
            pixels, prepared.picture, settings.window, settings.window_stride, regions, self.limits, masks
        )
        return _Job(look, len(plan), whole)

    def _at_once(self, plan: WindowPlan, asked: Run) -> int:
        if asked.whole:
            return 1
        tokens = asked.method.tokens_at_once(self.tower, plan.padded)
        return max(1, (self.limits or budget(self.device)).tokens // tokens)

    def _run_batch(self, windows: _Waiting, asked: Run) -> None:
        """Take the first windows of one size through the tower, and put what is kept into their pictures' places."""
        batch = [windows.popleft()]
        plan = batch[0][0].look.plan
        at_once = self._at_once(plan, asked)
        while windows and len(batch) < at_once and windows[0][0].look.plan.window == plan.window:
            batch.append(windows.popleft())
        cut = [plan.cut(job.look.pixels, *box) for job, _, box in batch if job.look.pixels is not None]
        pixels = torch.stack(cut).to(self.device)
        pixels = plan.pad(normalise(pixels, self.mean, self.std), -self.mean / self.std)
        kept, grid, embedded, looked = self._computed(pixels, batch, asked)
        for place, ((job, index, _), values) in enumerate(zip(batch, kept, strict=True)):
            look = job.look
            if job.waiting == len(look.plan):
                look.plan = look.plan.with_patches(grid)
                look.vectors = look.plan.empty_values(kept.shape[2], kept)
                if embedded is not None:
                    look.windows = embedded.new_empty(len(look.plan), embedded.shape[1])
            look.plan.place(look.vectors, index).copy_(values.unflatten(0, grid))
            if look.windows is not None and embedded is not None:
                look.windows[index] = embedded[place]
            for key, of_windows in looked.items():
                job.parts.setdefault(key, []).append(of_windows[place])
            job.waiting -= 1
            if not job.waiting:
                job.whole = None  # with what the method kept of the picture
                look.looked = {key: torch.stack(parts) for key, parts in job.parts.items()}
        if asked.embeddings:
            self._embed_pictures([job.look for job, *_ in batch if not job.waiting])

    def _computed(
        self, pixels: Tensor, batch: list[tuple[_Job, int, tuple[int, int, int, int]]], asked: Run
    ) -> tuple[Tensor, tuple[int, int], Tensor | None, dict[str, Tensor]]:
        """What is kept of a batch of windows (B, h w, C), its grid, image embeddings, and the looks of steps."""
        places = [Window(job.whole, box) for job, _, box in batch if job.whole is not None]
        # Of a method that takes whole pictures the one window is the picture, which is embedded by itself.
        of_windows = asked.embeddings and not asked.whole
        reach = asked.reach(len(self.tower.blocks))
        features, ran, embedded = projected(self.tower, pixels, asked.method, places, of_windows, reach)
        vectors = F.normalize(features.float(), dim=2) if asked.unit else features.float()
        if asked.settings.views is not None:

            def look(changed: Tensor) -> Tensor:
                return dense_and_embedding(self.tower, changed, asked.method, (), embedding=False)[0]

            vectors = engineered(pixels, features.mT.unflatten(2, ran.grid), look, asked.settings.views)
        with without_autocast(self.device):
            kept = asked.keep(vectors)
            if ran.spread is not None:
                kept = torch.stack([ran.spread(rows) for rows in kept]).flatten(1, 2)
            embedded = None if embedded is None else F.normalize(embedded.float(), dim=1)
            looked = {key_of(step): _looked(step, ran.context, ran.grid) for step in asked.steps}
        return kept, ran.grid, embedded, looked

    def _embed_pictures(self, looks: list[Look]) -> None:
        """The image embedding of each picture, resized to the model's native size, if it has none yet."""
        looks = [look for look in dict.fromkeys(looks) if look.image is None]
        if not looks:
            return
        native = tuple(side * patch for side, patch in zip(self.tower.native_grid, self.tower.patch_size, strict=True))
        shown = [normalise(look.pixels, self.mean, self.std)[None] for look in looks if look.pixels is not None]
        pixels = torch.cat([F.interpolate(each, native, mode="bilinear", antialias=True) for each in shown])
        with without_autocast(self.device):
            embedded = self.embed_pixels(pixels)
        for look, image in zip(looks, embedded, strict=True):
            look.image = image
            look.windows = image[None].clone() if look.windows is None else look.windows

    def _done(self, job: _Job | PictureError, asked: Run) -> Look | PictureError:
        if isinstance(job, PictureError):
            return job
        if not torch.isfinite(job.look.vectors).all():
            raise NotFiniteError(
                "the model's features are not numbers (NaN or infinite), with weights in "
                f"{str(self.dtype).removeprefix('torch.')} and method {asked.method.called()}. In half precision that "
                "is an overflow: load the model in float32 or bfloat16."
            )
        return job.look


def plan_of(size: tuple[int, int], settings: Settings, patch_size: tuple[int, int], method: Method) -> WindowPlan:
    """The windows of a picture of ``size``, by the settings and the method."""
    window, black = 0 if settings.stitched else settings.window, settings.padding == "black"
    return WindowPlan.of(size, window, settings.window_stride, patch_size, method, black)


def bound(settings: Settings, encoder: Encoder, text: Tensor) -> Method:
    """The settings' method, after `Method.bind`."""
    return settings.make_method().bind(
        text=text, logit_scale=settings.logit_scale, image_mean=encoder.mean, image_std=encoder.std
    )


def _waits(job: _Job | PictureError) -> bool:
    return isinstance(job, _Job) and job.waiting > 0


def _looked(step: Step, context: Context, grid: tuple[int, int]) -> Tensor:
    if tuple(context.grid) != tuple(grid):
        raise SettingError(
            f"the step {step.called()} looks at the tower's own {context.grid[0]} x {context.grid[1]} patches, and the "
            f"method's scores are on {grid[0]} x {grid[1]}; expected a method that keeps the tower's grid."
        )
    return step.look(context)
