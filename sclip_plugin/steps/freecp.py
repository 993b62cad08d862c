"""FreeCP (arXiv 2508.00557): removes names that a window does not show, and duplicates.

The arithmetic follows the authors' repository (chenqi1126/FreeCP, a15f1c9). It is not compared with arrays of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from ..imaging.tiles import TiledMap
from .base import PatchScores, PixelScores, Place, Step
from .excel import boxes, in_boxes, transition
from .itaclip import load_texts
from .registry import register_step
from .scores import Kind

if TYPE_CHECKING:
    from ..towers.running import Context

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in patches."""

SHOWN = 0.4
"""Of a map's highest value, what shows."""
CROP = 112
BELOW_ALL = -1.0


@register_step("freecp")
@dataclass(frozen=True, kw_only=True)
class FreeCP(Step):
    """Class purification: each window's probabilities, spread along the tower's attention, say which names are there.

    p is the softmax over names, m is p from 0 to 1 over the window, M the tower's attention made a transition, a the
    boxes around what m shows, r = (M ⊙ a) m from 0 to 1 for each name. *Redundant* names go: Σ p r / (Σ p + Σ r) is not
    above ``redundancy``. *Ambiguous* ones are told apart: names whose r overlap by at least ``ambiguity`` form a group,
    and of each box around a group's mean the name stays that is most like the box, cut out, for the whole model. What
    is left are r, from 0 to 1, and 0 for names that went. Use it with ``logit_scale=100``, and where class 0 is
    background with ``background=True`` and the step `FreeCPBackground` behind it.

    Fields:
        background: class 0 is background: its names take part in the softmax, and `FreeCPBackground` scores them.
        redundancy, ambiguity: the two thresholds; the authors' values differ between data sets.
        texts: JSON file with one text per class, for comparison with boxes. The authors use descriptions by a language
            model. Without a file boxes are compared with the names.
    """

    summary: ClassVar[str] = "class purification: remove names that a window does not show, and duplicates"
    source: ClassVar[str] = "FreeCP, arXiv 2508.00557"
    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "probability"
    background: bool = field_of(False, "class 0 is background")
    redundancy: float = field_of(0.15, "remove names that agree at most this much with their spread map", low=0, high=1)
    ambiguity: float = field_of(0.7, "names whose maps overlap at least this much form a group", low=0, high=1)
    texts: str = field_of(
        "", "JSON file with one text per class, to compare boxes with; empty: the names", holds="path"
    )

    def taps(self, depth: int) -> tuple[int, ...]:
        return tuple(range(depth - 1))

    def look(self, context: Context) -> Tensor:
        """M of each window, (B, N, N)."""
        maps = torch.stack([context.taps[i].attention_map().mean(dim=1) for i in range(context.depth - 1)])
        return transition(maps.mean(dim=0)[:, context.prefix_tokens :, context.prefix_tokens :].float())

    def __call__(self, given: PatchScores) -> Tensor:
        assert given.looked is not None, "it has taps"
        front = torch.tensor([not (self.background and c == 0) for c in given.words.class_of_name])
        names, grid = front.nonzero().flatten().tolist(), (given.scores.shape[1], given.scores.shape[2])
        p = (given.words.logit_scale * given.scores).softmax(dim=-1).flatten(1, 2)
        low, high = p.amin(dim=(1, 2), keepdim=True), p.amax(dim=(1, 2), keepdim=True)
        m = ((p - low) / (high - low))[..., names]
        refined = torch.zeros_like(p)
        refined[..., ~front] = BELOW_ALL
        texts, pixels = self.of_boxes(given)[names], normalised_windows(given)
        for number, M in enumerate(given.looked):
            r = spread(M, m[number], grid)

            def likeness(box: Box, window: Tensor = pixels[number]) -> Tensor:
                return given.embed_pixels(cut_out(window, box, given.patch_size))[0] @ texts.T

            kept = self.purified(p[number][:, names], r, grid, likeness)
            refined[number, :, [names[i] for i in kept]] = r[:, kept]
        return refined.view_as(given.scores)

    def of_boxes(self, given: PatchScores) -> Tensor:
        """The unit embeddings (K, D) that boxes are compared with."""
        if not self.texts:
            return given.words.text
        texts, text, labels = load_texts(self.texts), given.words.text.clone(), given.words.labels
        for name, c in enumerate(given.words.class_of_name):
            if labels[c] in texts:
                text[name] = given.words.embed([texts[labels[c]]])[0].to(text)
        return text

    def purified(self, p: Tensor, r: Tensor, grid: tuple[int, int], likeness: Callable[[Box], Tensor]) -> list[int]:
        """Which names stay in a window: p and r (N, K); ``likeness`` of a box in patches with all names, (K,)."""
        agree = (p * r).sum(dim=0) / (p.sum(dim=0) + r.sum(dim=0) + 1e-8)
        kept = (agree > self.redundancy).nonzero().flatten().tolist()
        stay: set[int] = set()
        for group in groups(r[:, kept], self.ambiguity):
            members = [kept[i] for i in group]
            found = boxes(r[:, members].mean(dim=1).view(grid), SHOWN) if len(members) > 1 else []
            cut = [box for box in found if box[0] < box[2] and box[1] < box[3]]
            if len(cut) < len(found) or not cut:  # as published: an empty box keeps the group
                stay.update(members)
            for box in cut:
                stay.add(members[int(likeness(box)[members].argmax())])
        return sorted(stay)


@register_step("freecp_background")
@dataclass(frozen=True, kw_only=True)
class FreeCPBackground(Step):
    """Gives the names of class 0 the score 1 - the best other score, at the picture's size; behind `FreeCP`."""

    summary: ClassVar[str] = "give class 0 the score 1 - the best other score; behind freecp(background=True)"
    source: ClassVar[str] = "FreeCP, arXiv 2508.00557"
    on: ClassVar[Place] = "pixels"

    def __call__(self, given: PixelScores) -> TiledMap:
        scores = given.at(given.size).full()
        background = 1 - scores.amax(dim=-1, keepdim=True).clamp(min=0)
        return TiledMap(torch.where(scores < BELOW_ALL / 2, background, scores))


def normalised_windows(given: PatchScores) -> Tensor:
    """All windows, (n, 3, H, W), padded with black to whole patches, normalised, on the scores' device."""
    windows = given.window_pixels()
    sides = zip(given.scores.shape[1:3], given.patch_size, windows.shape[2:], strict=True)
    height, width = (max(0, count * patch - side) for count, patch, side in sides)
    mean, std = (values.to(windows.device)[:, None, None] for values in (given.shown.mean, given.shown.std))
    return ((F.pad(windows, (0, width, 0, height)) - mean) / std).to(given.scores.device)


def spread(M: Tensor, maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """r (N, K): (M ⊙ a) m, each name's from 0 to 1."""
    shown = torch.stack([in_boxes(column.view(grid), SHOWN).flatten() for column in maps.T], dim=1)
    r = M @ (shown * maps)
    low, high = r.amin(dim=0), r.amax(dim=0)
    return (r - low) / (high - low + 1e-8)


def groups(r: Tensor, threshold: float) -> list[list[int]]:
    """Names (N, K) joined where Σ min / Σ max of two is at least the threshold, and through others."""
    rest, found = set(range(r.shape[1])), []
    overlap = [torch.minimum(column, r.T).sum(dim=1) / torch.maximum(column, r.T).sum(dim=1) for column in r.T]
    while rest:
        group, waiting = [], [min(rest)]
        rest.discard(waiting[0])
        while waiting:
            group.append(waiting.pop())
            joined = [i for i in sorted(rest) if overlap[group[-1]][i] >= threshold]
            rest.difference_update(joined)
            waiting += joined
        found.append(sorted(group))
    return found


def cut_out(pixels: Tensor, box: Box, patch_size: tuple[int, int]) -> Tensor:
    """A box in patches of normalised pixels (3, H, W), resized to 112 x 112: (1, 3, 112, 112)."""
    (height, width), (top, left, bottom, right) = patch_size, box
    cut = pixels[None, :, top * height : bottom * height, left * width : right * width]
    side = tuple(max(patch, CROP // patch * patch) for patch in patch_size)
    return F.interpolate(cut, size=side, mode="bilinear", align_corners=False)
