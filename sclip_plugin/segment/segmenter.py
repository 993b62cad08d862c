"""Words and a picture in, masks out: the segmenter.

A picture is resized, cut into windows, and the windows of one or several pictures go through the tower as batches. Each
window leaves only what is kept of its patches: their scores, (h, w, names), which `windows.LogitMap` turns into pixels
when they are needed, or their features, which an `Encoded` is asked about later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..defaults import CLIP_MEAN, CLIP_STD
from ..dense import image_embeddings
from ..device import Budget, without_autocast
from ..errors import ArgumentTypeError, LabelError, NotFiniteError, PictureError, SettingError
from ..fingerprint import identity_of
from ..imaging.pictures import Picture, read_picture, to_tensor
from ..imaging.refine import refine_pixels
from ..imaging.resampling import normalise, resize, target_size, to_picture
from ..masks import mask_vote
from ..methods import Method
from ..protocols import load_benchmark, load_preset
from ..settings import Settings
from ..steps import PatchScores, PostStep
from ..steps.base import plain_pixels
from ..text.bank import TextBank
from ..text.labels import Labels, Vocabulary, parse_labels
from ..text.towers import find_text_tower
from ..towers import find_tower
from ..towers.layers import base_of, is_multihead
from ..towers.registry import unwrapped
from .encoded import Encoded
from .memory import memory_of
from .refining import refined
from .regions import masks_in, regions_of
from .running import Prepared, Seen, WindowRunner
from .scores import MovingMean, NameScores
from .segmentation import Segmentation, closed, decide
from .windows import LogitMap

OnError = Literal["raise", "return", "skip"]

REFINED_PIXELS = 2**22
REFINED_VALUES = 2**29


class Segmenter:
    """Segments pictures into any classes named in words, with a frozen CLIP.

    Args:
        model: a whole CLIP of transformers or open_clip, or OpenAI's; put into eval mode, otherwise left as it is.
        tokenizer: the model's: of transformers, of ``open_clip.get_tokenizer``, or ``clip.tokenize``.
        image_mean, image_std: of the model's pictures, for values 0 to 1; CLIP's where None.
        preset: settings and labels as the authors evaluate a benchmark, ``"sclip/voc21"``; see
            `sclip_plugin.protocols.presets`.
        settings: all settings; the preset's where None. Without either, windows have the model's native size, the
            stride is half of it, and the short side one and a half of it.
        cache_dir: of the text bank; None for the user's cache folder, False for none.
        budget: how much is computed at once, for whoever runs out of memory; what suits the device where None, see
            `sclip_plugin.device.Budget`.
        paths: False refuses text and paths as pictures, so that a server opens no file that a visitor names.
        **changes: fields of `Settings` and options of the method that differ.

    Raises:
        UnsupportedModelError: the structure of the image or the text tower is not known.
        UnknownNameError: no such preset, method or setting.
        SettingError: a setting of another type, or out of range.

    Source: SCLIP, arXiv 2312.01597, for the protocol and the default method.

    Example:
        >>> import sclip_plugin as sp
        >>> scene = sp.draw_scene(seed=7)
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> result = seg(scene.picture, list(scene.labels), method="clearclip")
        >>> set(result.areas()) == set(scene.labels)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        preset: str | None = None,
        settings: Settings | None = None,
        cache_dir: str | Path | None | bool = None,
        budget: Budget | None = None,
        paths: bool = True,
        **changes: Any,
    ) -> None:
        self.model = model.eval()
        self.tower = find_tower(model)
        self.text_bank = TextBank(find_text_tower(model, tokenizer), cache_dir)
        # Pixels are normalised in single precision whatever the tower's own is.
        self._mean = torch.tensor(image_mean or CLIP_MEAN)
        self._std = torch.tensor(image_std or CLIP_STD)
        self.budget = budget
        self.paths = paths
        self._runner = WindowRunner(self.tower, self._mean, self._std, budget)
        self._preset_labels: dict[str, tuple[str, ...]] | None = None
        native = self.tower.native_grid[0] * self.tower.patch_size[0]
        defaults = Settings(resize_short_side=native * 3 // 2, window=native)
        if preset is not None:
            defaults, self._preset_labels = _from_preset(preset)
        self.settings = _chosen(defaults, settings, changes)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The classes of the preset, which are asked for where a call names none; None without a preset."""
        return self._vocabulary(None, self.settings, needed=False)

    @property
    def device(self) -> torch.device:
        """Where the model is; whoever holds it may move it at any time."""
        return self._runner.device

    @property
    def dtype(self) -> str:
        """What the model's weights are in, such as ``"float32"``."""
        return str(next(self.tower.trunk.parameters()).dtype).removeprefix("torch.")

    def weights(self) -> str:
        """A hash of all bits of the model's weights and buffers, of which adapters are on, and of its activations."""
        model = unwrapped(self.model)
        if any(is_multihead(base_of(module)) for module in model.modules() if base_of(module) is not module):
            # PEFT adds its adapters to these weights for each call and takes them off again, which rounds the weights
            # once: after a call they stay what they are.
            self.answers()
        return identity_of(model)

    @torch.inference_mode()
    def answers(self) -> list[list[float]]:
        """What the model says of a fixed picture and of three fixed prompts: the first 64 values of unit vectors.

        What `weights` can't see (a hook, a forward that was replaced) shows here. Last digits differ between
        processors: see `sclip_plugin.fingerprint.alike`.
        """
        tower = self.tower
        height, width = (side * patch for side, patch in zip(tower.native_grid, tower.patch_size, strict=True))
        waves = torch.stack([torch.linspace(0, n * 3.0, height * width).sin() for n in (1, 7, 50)])
        with without_autocast(self.device):
            picture = image_embeddings(tower, waves.view(1, 3, height, width).to(self.device))
            answers = [*F.normalize(picture.float(), dim=-1), *self.text_bank.answers()]
        return [row[:64].tolist() for row in answers]

    def identity(self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any) -> str:
        """A hash of all that a result depends on beside the picture: weights, normalisation, labels, settings.

        Arguments as for a call. Two results with one identity were made in the same way, templates and method options
        included.
        """
        chosen = _chosen(self.settings, settings, changes)
        vocabulary = self._vocabulary(labels, chosen)
        pixels = [self._mean.tolist(), self._std.tolist()]
        words = self.text_bank.identity(vocabulary.names, chosen.templates)
        said = [self.weights(), chosen.identity(), pixels, vocabulary.identity(), words]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        **arguments: Any,
    ) -> Segmenter:
        """A segmenter for a model by name.

        Args:
            name: a hub id or folder of transformers; ``"open_clip:ARCH/PRETRAINED"`` or ``"open_clip:ARCH@FILE"``;
                ``"timm:NAME"`` with its matching text tower from open_clip; ``"demo"``, which ships with the package.
            device: where it runs; CUDA where there is one, else the CPU.
            dtype: of the weights, a ``torch.dtype`` or its name; float32 where None. ``"auto"``: half precision where
                it is faster (float16 on CUDA, bfloat16 on processors with AMX).
            **arguments: of `Segmenter`.

        Raises:
            ModelLoadError: the weights can't be had; the message says what works instead.
            UnknownNameError: no such dtype.
        """
        from ..loading import load_model

        loaded = load_model(name, device=device, dtype=dtype)
        return cls(
            loaded.model, loaded.tokenizer, image_mean=loaded.image_mean, image_std=loaded.image_std, **arguments
        )

    @overload
    def __call__(
        self, picture: Picture, labels: Labels | None = None, settings: Settings | None = None, **changes: Any
    ) -> Segmentation: ...
    @overload
    def __call__(
        self,
        picture: list[Any] | tuple[Any, ...],
        labels: Labels | None = None,
        settings: Settings | None = None,
        *,
        on_error: OnError = "raise",
        **changes: Any,
    ) -> list[Segmentation]: ...

    def __call__(
        self,
        picture: Any,
        labels: Any = None,
        settings: Settings | None = None,
        *,
        on_error: OnError = "raise",
        **changes: Any,
    ) -> Any:
        """Segment one picture, or a list of them.

        Args:
            picture: a path, an open file, a PIL picture, an array (H, W, 3), a tensor (3, H, W); or a list of those.
            labels: names; a list in the list names synonyms of one class; a dict maps a label to its synonyms. None for
                the preset's.
            settings: for this call, in place of the segmenter's own.
            on_error: of a list, what becomes of a picture that can't be read: ``"raise"`` ends the call, ``"return"``
                gives the `PictureError` in the place of its result, ``"skip"`` leaves it out.
            **changes: fields of `Settings` and options of the method that differ, for this call.

        Returns:
            A `Segmentation`, or a list of them in the order of the pictures.

        Raises:
            LabelError: no labels, empty ones, or one twice.
            PictureError, FileNotFoundError: a picture that can't be read.
        """
        if isinstance(picture, (list, tuple)):
            return list(self.stream(picture, labels, settings, on_error=on_error, **changes))
        return next(self.stream([picture], labels, settings, **changes))

    def stream(
        self,
        pictures: Iterable[Picture],
        labels: Labels | None = None,
        settings: Settings | None = None,
        *,
        on_error: OnError = "raise",
        smoothing: float = 0.0,
        **changes: Any,
    ) -> Iterator[Segmentation]:
        """Segment pictures one after the other as they are needed; windows of several share batches.

        Arguments as for a call, but ``pictures`` may be any iterable, even an endless one. Up to 16 pictures are read
        ahead of the one that is given, as many as fill a batch on the device.

        ``smoothing``, for frames of one camera, is the share s of the frames before, from 0 (off) to below 1: labels
        are decided on m = s m' + (1 - s) x, where x are a frame's scores, the cosines of patches and names after
        post-steps, and m' the frame before's m. A frame of another size begins anew.
        """
        chosen = _chosen(self.settings, settings, changes)
        vocabulary = self._vocabulary(labels, chosen)
        if on_error not in get_args(OnError):
            raise SettingError(f"on_error={on_error!r}; expected {' or '.join(map(repr, get_args(OnError)))}.")
        return self._run(self._read(pictures, chosen, on_error), vocabulary, chosen, MovingMean(smoothing))

    def _read(self, pictures: Iterable[Picture], settings: Settings, on_error: OnError) -> Iterator[Any]:
        """Pictures prepared as they are needed; those that can't be read as ``on_error`` says."""
        for picture in pictures:
            try:
                prepared = self._prepared(picture, settings, self.device)
            except PictureError as error:
                if on_error == "raise":
                    raise
                if on_error == "return":
                    yield error
            else:
                yield prepared

    def prepare(self, picture: Picture, settings: Settings | None = None, **changes: Any) -> Prepared:
        """The part of a call that comes before the model: read and resize. A worker process may do it."""
        return self._prepared(picture, _chosen(self.settings, settings, changes), torch.device("cpu"))

    def stream_prepared(
        self,
        pictures: Iterable[Prepared],
        labels: Labels | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> Iterator[Segmentation]:
        """Segment what `prepare` gave, with the same settings; `stream` is both."""
        chosen = _chosen(self.settings, settings, changes)
        return self._run(pictures, self._vocabulary(labels, chosen), chosen)

    def segment_pixels(
        self,
        pixels: Tensor,
        labels: Labels | None = None,
        output_size: tuple[int, int] | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> Segmentation:
        """Segment pixels that are already of the size at which the tower shall see them: nothing is resized before.

        Args:
            pixels: (3, H, W), uint8, or floating point and normalised.
            labels, settings, changes: as for a call.
            output_size: (height, width) of the label map; that of the pixels where None.
        """
        size = output_size or (pixels.shape[-2], pixels.shape[-1])
        return next(self.stream_prepared([(None, pixels, size)], labels, settings, **changes))

    def text_embeddings(
        self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any
    ) -> tuple[Vocabulary, Tensor]:
        """The classes and names of labels, and the names' unit embeddings (K, D) float32."""
        chosen = _chosen(self.settings, settings, changes)
        vocabulary = self._vocabulary(labels, chosen)
        return vocabulary, self.text_bank.embed_vocabulary(vocabulary, chosen.templates)

    @overload
    def _vocabulary(self, labels: Labels | None, settings: Settings) -> Vocabulary: ...
    @overload
    def _vocabulary(self, labels: Labels | None, settings: Settings, needed: bool) -> Vocabulary | None: ...

    def _vocabulary(self, labels: Any, settings: Settings, needed: bool = True) -> Vocabulary | None:
        labels = self._preset_labels if labels is None else labels
        if labels is not None:
            return parse_labels(labels, settings.background)
        if needed:
            raise LabelError("no labels were given; expected a list of names such as ['cat', 'dog'], or a preset.")
        return None

    def _prepared(self, picture: Picture, settings: Settings, device: torch.device) -> Prepared:
        rgb = read_picture(picture, paths=self.paths)
        pixels = to_tensor(rgb).to(device)
        size = (pixels.shape[-2], pixels.shape[-1])
        short = settings.resize_short_side
        target = target_size(*size, short) if short else size
        # A side of less than one patch is stretched to one, so that every picture can be segmented.
        patch = self.tower.patch_size
        return rgb, resize(pixels, (max(target[0], patch[0]), max(target[1], patch[1]))), size

    def encode(
        self,
        picture: Any,
        settings: Settings | None = None,
        *,
        dtype: torch.dtype = torch.float16,
        **changes: Any,
    ) -> Any:
        """Look at pictures once, to ask about them many times.

        Args:
            picture: as for a call; a list of them, or any other iterable.
            settings, changes: as for a call.
            dtype: in which the features are kept. In half precision a few pixels of a label map may differ from those
                of a call; in ``torch.float32`` none does.

        Returns:
            An `Encoded`; a list of them for a list; for another iterable an iterator, which reads as it is asked.

        Raises:
            SettingError: the method's features depend on the words.
            PictureError: a picture that can't be read.
        """
        one = isinstance(picture, (str, os.PathLike, Image.Image, np.ndarray, Tensor)) or hasattr(picture, "read")
        chosen = _chosen(self.settings, settings, changes)
        prepared = (self._prepared(p, chosen, self.device) for p in ([picture] if one else picture))
        encoded = self.encode_prepared(prepared, chosen, dtype=dtype)
        return next(encoded) if one else list(encoded) if isinstance(picture, (list, tuple)) else encoded

    def encode_prepared(
        self,
        pictures: Iterable[Prepared],
        settings: Settings | None = None,
        *,
        dtype: torch.dtype = torch.float16,
        **changes: Any,
    ) -> Iterator[Encoded]:
        """Look at what `prepare` gave, with the same settings; `encode` is both."""
        chosen = _chosen(self.settings, settings, changes)
        method = chosen.make_method()
        if method.needs_text:
            raise SettingError(
                f"what {chosen.method_name} computes depends on the words, with these options, so a picture can't be "
                "looked at before them: segment it directly"
                + (", or pass sfr=None." if hasattr(method, "sfr") else ".")
            )
        return self._encoded(pictures, chosen, dtype)

    def vector_of(self, picture: Picture, mask: np.ndarray | Tensor, **changes: Any) -> Tensor:
        """The mean feature of a region, (D,), to segment by example: ``labels={"this": seg.vector_of(picture, mask)}``.

        Arguments as for `encode` and `Encoded.vector_of`.
        """
        return self.encode(picture, **changes).vector_of(mask)

    @torch.inference_mode()
    def _encoded(
        self, pictures: Iterable[Any], settings: Settings, dtype: torch.dtype, text: Tensor | None = None
    ) -> Iterator[Any]:
        method = self._bound(settings, torch.empty(0) if text is None else text)
        for seen in self._runner.run(pictures, method, settings, lambda features: features.to(dtype), embeddings=True):
            if isinstance(seen, PictureError):
                yield seen
                continue
            assert seen.windows is not None and seen.image is not None, "asked for"
            pixels = seen.pixels if seen.picture is None else None
            windows, image = seen.windows.to(dtype), seen.image.to(dtype)
            yield Encoded(self, settings, seen.kept, seen.plan, seen.output_size, windows, image, seen.picture, pixels)

    @torch.inference_mode()
    def raw_features(
        self, pictures: Iterable[Picture], settings: Settings | None = None, **changes: Any
    ) -> Iterator[tuple[LogitMap, Callable[[], np.ndarray] | None]]:
        """For each picture its features at every pixel, windows averaged, not made unit vectors; and its regions.

        Arguments as for `encode`. The features stay small matrices: their tiles are computed when they are asked for.
        """
        chosen = _chosen(self.settings, settings, changes)
        method = self._bound(chosen, torch.empty(0))
        prepared = (self._prepared(picture, chosen, self.device) for picture in pictures)
        for seen in self._runner.run(prepared, method, chosen, lambda features: features, unit=False):
            assert isinstance(seen, Seen)
            yield dataclasses.replace(seen.plan.stitched(seen.kept, seen.output_size), limits=self.budget), seen.regions

    def picture_of(self, pixels: Tensor) -> Image.Image:
        """The 8-bit RGB picture of (3, H, W) pixels, uint8 or normalised as the model wants it."""
        return to_picture(pixels, self._mean, self._std)

    def _answer(self, encoded: Encoded, labels: Labels | None, settings: Settings) -> Segmentation:
        return self._answered(encoded, self._vocabulary(labels, settings), settings)

    @torch.inference_mode()
    def _answered(
        self, encoded: Encoded, vocabulary: Vocabulary, settings: Settings, mean: MovingMean | None = None
    ) -> Segmentation:
        text = self.text_bank.embed_vocabulary(vocabulary, settings.templates)
        steps, pixels = settings.make_steps(), encoded.pixels
        looks = settings.pamr_steps or settings.refine is not None or settings.memory is not None
        if (looks or steps) and pixels is None and encoded.picture is not None:
            pixels = self._prepared(encoded.picture, settings, self.device)[1]
        if looks and pixels is None:
            raise SettingError(
                "refinement looks at the picture, which an encoded picture read from a file does not have; "
                "expected Encoded.load(path, segmenter, picture=...)."
            )
        scores = encoded._cosines(text)
        for step in steps:
            scores = self._stepped(step, scores, encoded, vocabulary, text, pixels, settings)
        seen = Seen(encoded.picture, pixels, encoded.size, encoded.plan, scores)  # type: ignore[arg-type]
        seen.regions = regions_of(masks_in(encoded.picture, pixels, settings), encoded.size)
        return self._decided(seen, vocabulary, settings, mean)

    def _stepped(
        self,
        step: PostStep,
        scores: Tensor,
        encoded: Encoded,
        vocabulary: Vocabulary,
        text: Tensor,
        pixels: Tensor | None,
        settings: Settings,
    ) -> Tensor:
        """The scores of all windows side by side, (gh, gw, K), after a post-step."""
        plan = encoded.plan
        given = PatchScores(
            scores=plan.window_by_window(scores),
            features=plan.window_by_window(encoded.vectors).float(),
            text=text,
            labels=vocabulary.labels,
            class_of_name=tuple(vocabulary.class_of_name),
            windows=encoded.windows.float(),
            image=encoded.image.float(),
            boxes=tuple(plan.boxes()),
            patch_size=self.tower.patch_size,
            pixels=pixels,
            picture=encoded.picture,
            logit_scale=settings.logit_scale,
            image_mean=self._mean,
            image_std=self._std,
            embed_text=lambda names: self.text_bank.embed(tuple(names), settings.templates),
            tower=self.tower,
        )
        with without_autocast(self.device):
            stepped = step(given)
        if stepped.shape != given.scores.shape or not torch.isfinite(stepped).all():
            raise NotFiniteError(
                f"post-step {step.name or type(step).__name__} gave scores of shape {tuple(stepped.shape)}; expected "
                f"numbers, of shape {tuple(given.scores.shape)}."
            )
        return plan.side_by_side(stepped.float())

    @torch.inference_mode()
    def _run(
        self, pictures: Iterable[Prepared], vocabulary: Vocabulary, settings: Settings, mean: MovingMean | None = None
    ) -> Iterator[Any]:
        """`encode` and `Encoded.segment` in one: the words are known, so a window leaves only its patches' scores.

        Post-steps see the features too, so with them it is the two, one after the other.
        """
        text = self.text_bank.embed_vocabulary(vocabulary, settings.templates)
        if settings.post_steps:
            for encoded in self._encoded(pictures, settings, torch.float32, text):
                failed = isinstance(encoded, PictureError)
                yield encoded if failed else self._answered(encoded, vocabulary, settings, mean)
            return
        method = self._bound(settings, text)
        for seen in self._runner.run(pictures, method, settings, lambda features: features @ text.T):
            yield seen if isinstance(seen, PictureError) else self._decided(seen, vocabulary, settings, mean)

    def _bound(self, settings: Settings, text: Tensor) -> Method:
        return settings.running_method(
            text=text, logit_scale=settings.logit_scale, image_mean=self._mean, image_std=self._std
        )

    def _decided(
        self, seen: Seen, vocabulary: Vocabulary, settings: Settings, mean: MovingMean | None = None
    ) -> Segmentation:
        if mean is not None:
            seen.kept = mean(seen.kept)
        steps = [step for step in settings.make_steps() if step.sees_pixels]
        size = seen.plan.size if steps or settings.memory is not None else seen.output_size
        logits = dataclasses.replace(seen.plan.stitched(seen.kept, size), limits=self.budget)
        for step in steps:
            pixels = plain_pixels(seen.pixels, self._mean, self._std).to(self.device)
            logits = LogitMap(step.of_pixels(logits.full(), pixels), limits=self.budget)
        if settings.memory is not None:
            bank = memory_of(settings)
            with without_autocast(self.device):
                logits = bank.recalled(logits, seen, vocabulary, settings, self)
        logits = dataclasses.replace(logits, limits=self.budget).resized(seen.output_size)
        if settings.pamr_steps:
            logits = self._refined(logits, seen.pixels, settings)
        label_map, dropped = decide(logits, vocabulary, settings)
        label_map = closed(label_map, settings.closing)
        result = Segmentation(
            labels=vocabulary.labels,
            label_map=label_map,
            picture=of_size(seen.picture, seen.output_size),
            settings=settings,
            scores=NameScores(logits, vocabulary, settings, dropped),
        )
        refinement = settings.make_refinement()
        if refinement is not None:
            shown = seen.picture or to_picture(seen.pixels, self._mean, self._std)
            with without_autocast(self.device):
                result = refined(result, refinement, shown, self.tower)
        if seen.regions is not None and settings.mask_vote:
            result.label_map = mask_vote(result.label_map, seen.regions())
        return result

    def _refined(self, logits: LogitMap, pixels: Tensor, settings: Settings) -> LogitMap:
        """PAMR on all pixels at once, or at the largest size that the limits allow."""
        height, width = logits.size
        pixels_at_most = min(REFINED_PIXELS, REFINED_VALUES // logits.logits.shape[2])
        shrink = max(1.0, (height * width / pixels_at_most) ** 0.5)
        size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        guide = normalise(pixels.to(self.device), self._mean, self._std)[None]
        guide = F.interpolate(guide, size=size, mode="bilinear", align_corners=False)[0]
        scores = logits.resized(size).full()
        refined = refine_pixels(
            scores.flatten(0, 1), guide, settings.pamr_steps, settings.pamr_dilations, limits=self.budget
        )
        return LogitMap(refined.view_as(scores), limits=self.budget).resized((height, width))


def of_size(picture: Image.Image | None, size: tuple[int, int]) -> Image.Image | None:
    """A picture at (height, width) of its label map, where that was asked for at another size."""
    return picture if picture is None or picture.size == size[::-1] else picture.resize(size[::-1])


def _chosen(base: Settings, settings: Settings | None, changes: dict[str, Any]) -> Settings:
    if settings is not None and not isinstance(settings, Settings):
        raise ArgumentTypeError(f"settings is a {type(settings).__name__}; expected sclip_plugin.Settings(...).")
    return (base if settings is None else settings).changed(**changes)


def _from_preset(name: str) -> tuple[Settings, dict[str, tuple[str, ...]]]:
    """The settings of a preset, and its classes by the names that are shown."""
    preset = load_preset(name)
    shown = load_benchmark(name.partition("/")[2]).class_names
    return preset.settings, dict(zip(shown, preset.classes, strict=True))
