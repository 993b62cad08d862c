"""Answering: scores of an encoded picture, steps, and the decision. It knows no model.

    scores -> steps on patches -> stitch -> steps on pixels -> decide -> steps on labels -> Segmentation

`Beside` has the few properties of the model that steps may use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..device import Budget, without_autocast
from ..errors import NotFiniteError, SettingError, ShapeError
from ..imaging.tiles import TiledMap
from ..settings import Settings
from ..steps import Decided, FirstClasses, NameScores, PatchScores, PixelScores, Presence, Present, Shown, Step, Words
from ..steps.scores import Kind
from .checking import UNLABELLED
from .encoding import Look, key_of
from .regions import masks_in, regions_of
from .segmentation import Segmentation
from .smoothing import MovingMean


@dataclass(frozen=True)
class Beside:
    """Properties of the model that encoded the picture.

    Attributes:
        patch_size: (height, width) of a patch in pixels.
        device, dtype: device and precision of the tower.
        mean, std: (3,), normalisation of its pixels.
        identity: function that gives a hash of its weights, ``mean`` and ``std``.
        embed_pixels: function from normalised pixels (B, 3, H, W) to its own unit image embeddings (B, D).
        limits: batch and tile sizes; None: the device's defaults.
    """

    patch_size: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    mean: Tensor
    std: Tensor
    identity: Callable[[], str] = field(repr=False)
    embed_pixels: Callable[[Tensor], Tensor] = field(repr=False)
    limits: Budget | None = None


@dataclass(frozen=True)
class Question:
    """An encoded picture with words and settings.

    Fields:
        null: the model's null of presence; None: presence is not asked for, or unknown.
    """

    look: Look
    words: Words
    settings: Settings
    beside: Beside
    null: Presence | None = None

    def shown(self) -> Shown:
        look, size = self.look, self.look.size
        regions = regions_of(masks_in(look.picture, look.pixels, self.settings), size)
        return Shown(look.picture, look.pixels, self.beside.mean, self.beside.std, regions)


def scores_of(question: Question) -> Tensor:
    """Cosines of all patches and names, (gh, gw, K) float32: the seam between looking and answering.

    With a null of presence one more column follows, the cosines with the mean picture.
    """
    text, vectors = question.words.text, question.look.vectors
    rows = text if question.null is None else torch.cat([text, question.null.mean[None].to(text)])
    return vectors.float() @ rows.to(vectors.device).T


def presence_of(question: Question, cosines: Tensor, smoothing: MovingMean | None) -> dict[str, float]:
    """How surely each class is in the picture, from what `scores_of` gave."""
    plan, null = question.look.plan, question.null
    assert null is not None, "the caller asks only then"
    grid = plan.grid(question.beside.patch_size)
    patches = plan.stitched(cosines, grid).full().flatten(0, 1)
    numbers = null.numbers(patches[:, :-1], patches[:, -1], question.words)
    if smoothing is None or not numbers:
        return numbers
    smooth = smoothing(torch.tensor(list(numbers.values())), "presence", grid).tolist()
    return dict(zip(numbers, smooth, strict=True))


@torch.inference_mode()
def answer(question: Question, scores: Tensor, smoothing: MovingMean | None = None) -> Segmentation:
    """The segmentation from what `scores_of` gives of all windows' patches, side by side (gh, gw, K)."""
    look, words, steps, shown = question.look, question.words, question.settings.make_steps(), question.shown()
    kind: Kind = "cosine"
    with without_autocast(scores.device):
        presence, absent = None, frozenset[int]()
        if question.null is not None:
            presence = presence_of(question, scores, smoothing)
            scores = scores[..., :-1].contiguous()
            absent = next(s for s in steps if isinstance(s, Present)).absent(presence, words.labels)
        if words.vocabulary.constants:
            scores = scores + scores.new_tensor(words.vocabulary.constants_of_names())
        maps: TiledMap | None = None
        for step in (step for step in steps if step.on == "patches" and step.needs_features):
            if maps is not None:
                raise SettingError(f"the step {step.called()!r} follows one that gives pixels; put it before that.")
            found, kind = on_patches(step, scores, kind, question, shown), step.gives or kind
            scores, maps = (scores, found) if isinstance(found, TiledMap) else (found, None)
        if smoothing is not None and maps is not None:
            maps = dataclasses.replace(maps, values=smoothing(maps.values))
        elif smoothing is not None:
            scores = smoothing(scores)
    at = (lambda size: look.plan.stitched(scores, size)) if maps is None else maps.resized
    return finished(question, at, kind, presence, absent)


@torch.inference_mode()
def finished(
    question: Question,
    at: Callable[[tuple[int, int]], TiledMap],
    kind: Kind,
    presence: Mapping[str, float] | None,
    absent: frozenset[int],
    result: type[Segmentation] = Segmentation,
) -> Segmentation:
    """The segmentation from scores of pixels: steps on pixels, the decision, steps on labels.

    Args:
        question: what is asked.
        at: function from (height, width) to the scores of names at that size.
        kind: kind of the scores.
        presence: of each class; None: not asked for.
        absent: indices of the classes that paint nothing.
        result: the class of the result.
    """
    look, words, settings = question.look, question.words, question.settings
    steps, shown, limits = settings.make_steps(), question.shown(), question.beside.limits
    with without_autocast(question.beside.device):
        for step in (step for step in steps if step.on == "pixels"):
            at, kind = on_pixels(step, at, kind, question, shown).resized, step.gives or kind
        decided = decide(dataclasses.replace(at(look.size), limits=limits), kind, question, shown, absent)
        for step in (step for step in steps if step.on == "labels" and len(absent) < len(words.labels)):
            decided = on_labels(step, decided)
    picture = _of_size(look.picture, look.size)
    if not words.vocabulary.ignored:
        return result(words.labels, decided.labels, picture, decided.scores, settings, presence)
    kept = words.labels[: -words.vocabulary.ignored]
    labels = np.where(decided.labels < len(kept), decided.labels, UNLABELLED)
    there = None if presence is None else {label: presence[label] for label in kept if label in presence}
    return result(kept, labels, picture, FirstClasses(decided.scores, len(kept)), settings, there)


def on_patches(step: Step, scores: Tensor, kind: Kind, question: Question, shown: Shown) -> Tensor | TiledMap:
    """The scores (gh, gw, K) after a step on patches, or a map of them at the pixels of the resized picture.

    Raises:
        NotFiniteError: the step returned scores of another shape, or NaN or infinity.
    """
    look, plan = question.look, question.look.plan
    assert look.windows is not None and look.image is not None, "what looks keeps them where steps want them"
    given = PatchScores(
        kind=kind,
        words=question.words,
        shown=shown,
        model=question.beside.identity,
        limits=question.beside.limits,
        scores=plan.window_by_window(scores),
        features=plan.window_by_window(look.vectors).float(),
        windows=look.windows.float(),
        image=look.image.float(),
        boxes=tuple(plan.boxes()),
        patch_size=question.beside.patch_size,
        looked=look.looked.get(key_of(step)),
        pixels_of=plan.of_window,
        embed_pixels=question.beside.embed_pixels,
    )
    stepped = step(given)
    of_pixels = isinstance(stepped, TiledMap)
    values = stepped.values if of_pixels else stepped
    expected = (*plan.size, scores.shape[2]) if of_pixels else tuple(given.scores.shape)
    if tuple(values.shape) != expected or not torch.isfinite(values).all():
        raise NotFiniteError(
            f"the step {step.called()} gave scores of shape {tuple(values.shape)}; expected numbers, of shape "
            f"{expected}."
        )
    return stepped if of_pixels else plan.side_by_side(stepped.float())


def on_pixels(
    step: Step, at: Callable[[tuple[int, int]], TiledMap], kind: Kind, question: Question, shown: Shown
) -> TiledMap:
    """The scores of pixels after a step on pixels.

    Raises:
        ShapeError: the step returned a map of another number of names.
    """
    look, beside = question.look, question.beside
    given = PixelScores(
        kind=kind,
        words=question.words,
        shown=shown,
        model=beside.identity,
        limits=beside.limits,
        at=lambda size: dataclasses.replace(at(size), limits=beside.limits),
        cut=look.plan.size,
        size=look.size,
        device=beside.device,
    )
    stepped = step(given)
    names = len(question.words.vocabulary.names)
    if not isinstance(stepped, TiledMap) or stepped.values.shape[2] != names:
        raise ShapeError(f"the step {step.called()} gave {stepped!r:.100}; expected a TiledMap of {names} names.")
    return stepped


def decide(maps: TiledMap, kind: Kind, question: Question, shown: Shown, absent: frozenset[int]) -> Decided:
    """The class of the best name of each pixel, of the classes that are not ``absent``; -1 if all are."""
    words, beside = question.words, question.beside
    scores = NameScores(maps, words.vocabulary, kind, words.logit_scale, absent)
    labels = np.full(maps.size, UNLABELLED, dtype=np.int16)
    if len(absent) < len(words.labels):
        for place, _, index in scores.best(maps.size, scored=False):
            labels[place] = index.to(torch.int16).cpu().numpy()
    return Decided(
        labels=labels,
        scores=scores,
        vocabulary=words.vocabulary,
        shown=shown,
        patch_size=beside.patch_size,
        device=beside.device,
        dtype=beside.dtype,
    )


def on_labels(step: Step, decided: Decided) -> Decided:
    """Labels and scores after a step on labels.

    Raises:
        ShapeError: the step returned a label map of another shape.
    """
    stepped = step(decided)
    if not isinstance(stepped, Decided) or stepped.labels.shape != decided.labels.shape:
        raise ShapeError(
            f"the step {step.called()} gave {stepped!r:.100}; expected given.changed(labels=…) with labels of shape "
            f"{decided.labels.shape}."
        )
    return stepped


def _of_size(picture: Image.Image | None, size: tuple[int, int]) -> Image.Image | None:
    """A picture at (height, width) of its label map, where that was asked for at another size."""
    return picture if picture is None or picture.size == size[::-1] else picture.resize(size[::-1])
