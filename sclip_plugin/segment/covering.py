"""Greedy cover: the words of a bank that explain the regions of a picture, and which of them are one.

It knows no model: what its thresholds are, `naming` takes from the model's null.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..text.wordlist import WordList

MOST = 20
"""Words that a picture is given at most."""
REGIONS, ROUNDS = 32, 10


def regions(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Group unit patch features (N, D) by spherical k-means: unit centres (k, D) and shares (k,) of the patches.

    It starts with the patch nearest to the mean, and then takes the patch that is farthest from all that were taken.
    """
    centre = patches[(patches @ patches.mean(dim=0)).argmax()][None]
    nearest = patches @ centre[0]
    while len(centre) < min(REGIONS, len(patches)):
        centre = torch.cat([centre, patches[nearest.argmin()][None]])
        nearest = torch.maximum(nearest, patches @ centre[-1])
    for _ in range(ROUNDS):
        own = (patches @ centre.T).argmax(dim=1)
        sums = torch.zeros_like(centre).index_add(0, own, patches)
        centre = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centre)
    counts = (patches @ centre.T).argmax(dim=1).bincount(minlength=len(centre))
    return centre[counts > 0], counts[counts > 0] / len(patches)


def greedy_cover(cosines: Tensor, share: Tensor, floor: float, least: float) -> list[int]:
    """Indices of the words that cover regions, best first.

    Args:
        cosines: (k, K), of regions and words.
        share: (k,) of the picture.
        floor: cosine that says nothing.
        least: what a word must add: the mean over the picture of what its cosines exceed those of the taken words by.
    """
    above = (cosines.amax(dim=0) > floor).nonzero()[:, 0]  # the others never gain
    cosines, covered, taken = cosines[:, above], torch.full_like(share, floor), list[int]()
    while len(above) and len(taken) < MOST:
        gain = share @ (cosines - covered[:, None]).clamp(min=0)
        best = int(gain.argmax())
        if gain[best] < least:
            break
        taken.append(int(above[best]))
        covered = torch.maximum(covered, cosines[:, best])
    return taken


def fit(cosines: Tensor, share: Tensor, floor: float) -> float:
    """How well words fit the regions (k, n) that they name: the mean of the best cosines, by what exceeds the floor."""
    best = cosines.amax(dim=1)
    weight = share * (best - floor).clamp(min=0)
    return float((weight * best).sum() / weight.sum())


def likeness(bank: Tensor, rows: Sequence[int], mean: Tensor) -> Tensor:
    """(n, K) cosines of some rows of a bank (K, D) with all, each seen from the mean word (D,).

    Without the mean, any two words of a CLIP whose texts lie in a narrow cone would be alike.
    """
    along, square = bank @ mean, mean @ mean
    length = (1 - 2 * along + square).clamp(min=1e-6).sqrt()
    chosen = torch.tensor(list(rows), dtype=torch.long)
    product = bank[chosen] @ bank.T - along[chosen, None] - along + square
    return product / (length[chosen, None] * length)


def merged(
    taken: Sequence[int], alike: Tensor, cosines: Tensor, words: WordList, offered: frozenset[str], slack: float
) -> dict[int, list[int]]:
    """Of words that are alike the one to say, with the others: offered, then preferred, then the shortest.

    Args:
        taken: n indices of words.
        alike: (n, K) bool.
        cosines: (k, K) of regions and words. The word to say fits the region that the taken word fits best, by a cosine
            that is lower by ``slack`` at most.
        offered: casefolded.
    """

    def rank(index: int) -> tuple[bool, bool, int, int]:
        word = words.words[index]
        return word.casefold() not in offered, index >= words.preferred, len(word), index

    groups: dict[int, list[int]] = {}
    for row, index in zip(alike, taken, strict=True):
        region = cosines[cosines[:, index].argmax()]
        group = sorted({index, *row.nonzero()[:, 0].tolist()}, key=rank)
        head = next(other for other in group if region[other] >= region[index] - slack)
        if not any(said in group for said in groups):
            groups[head] = [other for other in group if other != head]
    return groups
