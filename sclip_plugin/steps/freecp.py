"""FreeCP (arXiv 2508.00557): names that a window does not show, or that stand for the same thing, are taken out of it.

Its arithmetic was read from the authors' repository (chenqi1126/FreeCP, a15f1c9) and not compared with arrays of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from ..towers import Tower
from ..towers.running import before_last_block
from .base import PatchScores, PostStep
from .excel import boxes, in_boxes, transition
from .itaclip import load_texts
from .registry import register_step

SHOWN = 0.4
"""Of a map's highest value, what shows."""
CROP = 112
BELOW_ALL = -1.0


@register_step("freecp")
@dataclass(frozen=True, kw_only=True)
class FreeCP(PostStep):
    """Class purification: each window's probabilities, spread along the tower's attention, say which names are there.

    p is the softmax over names, m is p from 0 to 1 over the window, M the tower's attention made a transition, a the
    boxes around what m shows, r = (M ⊙ a) m from 0 to 1 for each name. *Redundant* names go: Σ p r / (Σ p + Σ r) is not
    above ``redundancy``. *Ambiguous* ones are told apart: names whose r overlap by at least ``ambiguity`` form a group,
    and of each box around a group's mean the name stays that is most like the box, cut out, for the whole model. What
    is left are r, from 0 to 1, and 0 for names that went. Use it with ``softmax=False`` and ``logit_scale=100``.

    Fields:
        background: class 0 is background: its names take part in the softmax, and then get 1 - the best of the others.
        redundancy, ambiguity: the thresholds; the authors' differ between data sets.
        texts: a JSON file of a text for each class, which boxes are compared with; the authors compare with
            descriptions that a language model wrote, without a file the names themselves are taken.
    """

    summary: ClassVar[str] = "class purification: takes out names that are not there, or that stand for the same"
    source: ClassVar[str] = "FreeCP, arXiv 2508.00557"
    sees_pixels: ClassVar[bool] = True
    background: bool = field_of(False, "class 0 is background")
    redundancy: float = field_of(0.15, "names whose maps agree no more with their spread are taken out", low=0, high=1)
    ambiguity: float = field_of(0.7, "names whose maps overlap so much form a group", low=0, high=1)
    texts: str = field_of("", "JSON file of a text for each class, to compare boxes with; empty: the names")

    def __call__(self, given: PatchScores) -> Tensor:
        front = torch.tensor([not (self.background and c == 0) for c in given.class_of_name])
        names = front.nonzero().flatten().tolist()
        p = (given.logit_scale * given.scores).softmax(dim=-1).flatten(1, 2)
        low, high = p.amin(dim=(1, 2), keepdim=True), p.amax(dim=(1, 2), keepdim=True)
        m = ((p - low) / (high - low))[..., names]
        refined = torch.zeros_like(p)
        refined[..., ~front] = BELOW_ALL
        texts, depth = self.of_boxes(given)[names], len(given.tower.blocks)
        for first, context in given.looks(tuple(range(depth - 1)), "scale_factor"):
            maps = torch.stack([context.taps[i].attention_map().mean(dim=1) for i in range(depth - 1)])
            prefix = context.prefix_tokens
            M = transition(maps.mean(dim=0)[:, prefix:, prefix:].float())
            for number in range(len(M)):
                r = spread(M[number], m[first + number], context.grid)
                kept = self.purified(
                    p[first + number][:, names], r, context.grid, context.pixel_values[number], given.tower, texts
                )
                refined[first + number, :, [names[i] for i in kept]] = r[:, kept]
        return refined.view_as(given.scores)

    def of_boxes(self, given: PatchScores) -> Tensor:
        """The unit embeddings (K, D) that boxes are compared with."""
        if not self.texts:
            return given.text
        texts, text = load_texts(self.texts), given.text.clone()
        for name, c in enumerate(given.class_of_name):
            if given.labels[c] in texts:
                text[name] = given.embed_text([texts[given.labels[c]]])[0].to(text)
        return text

    def purified(
        self, p: Tensor, r: Tensor, grid: tuple[int, int], pixels: Tensor, tower: Tower, texts: Tensor
    ) -> list[int]:
        """Which names stay in a window: p and r (N, K), pixels (3, H, W), texts (K, D)."""
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
                stay.add(members[int((embedded(tower, pixels, box) @ texts[members].T).argmax())])
        return sorted(stay)

    def of_pixels(self, scores: Tensor, pixels: Tensor) -> Tensor:
        """Names of the background, which stand below all others until here, get 1 - the best of the others."""
        if not self.background:
            return scores
        return torch.where(scores < BELOW_ALL / 2, 1 - scores.amax(dim=-1, keepdim=True).clamp(min=0), scores)


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


def embedded(tower: Tower, pixels: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The unit image embedding (D,) of a box in patches, cut out and resized to 112 x 112."""
    (height, width), (top, left, bottom, right) = tower.patch_size, box
    cut = pixels[None, :, top * height : bottom * height, left * width : right * width]
    side = tuple(max(patch, CROP // patch * patch) for patch in tower.patch_size)
    block, context = before_last_block(tower, F.interpolate(cut, size=side, mode="bilinear", align_corners=False))
    count = block.tokens.shape[1] if tower.pools_patches or not tower.prefix_tokens else tower.prefix_tokens
    return F.normalize(context.tower.embedding(block.ordinary_rows(count)).float(), dim=1)[0]
