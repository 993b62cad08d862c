"""Anchored rows: one linear row and one constant a class, started at the words and held near them. Convex, no seed.

Source: CLAP (arXiv 2312.12730) holds a linear probe at the text vectors for whole pictures; here its rows are fitted
to area fractions of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory.examples import Cells

WEIGHT = 1e-4
"""λ, chosen on the demo's scenes: logits of 40 times cosines."""
LOOSE, TIGHT = 1e-5, 1e-3
"""Other values that may be taken: the first learns more where most classes have examples, the second holds a background
from swallowing what it was not shown."""
MOST = 2 / 3
"""The fraction of classes that must have examples for the first."""
MARGIN = 1.0
"""Points of mIoU by which left-out pictures must gain before another λ is taken; fewer are noise."""
ITERATIONS = 25
CANDIDATES = 65
FOLDS = 5


@dataclass(frozen=True)
class Start:
    """The words of a question, before examples.

    Fields:
        text: (n, D) unit embeddings of all names.
        class_of_name: (n,) class of each name.
        classes: their number, K.
        scale: factor on cosines before the softmax.
        background: the class of everything else, which becomes a constant; None: there is none.
    """

    text: Tensor
    class_of_name: Sequence[int]
    classes: int
    scale: float
    background: int | None = None

    def cosines(self, features: Tensor) -> Tensor:
        """(N, K): the largest cosine of each class's names."""
        of_names = features @ self.text.T
        index = torch.tensor(self.class_of_name).expand_as(of_names)
        empty = of_names.new_zeros(len(features), self.classes)
        return empty.scatter_reduce(1, index, of_names, "amax", include_self=False)

    def anchors(self, features: Tensor, threshold: float | None) -> Tensor:
        """`cosines`, with the threshold in place of those of the background."""
        cosines = self.cosines(features)
        if self.background is not None and threshold is not None:
            cosines[:, self.background] = threshold
        return cosines


@dataclass(frozen=True)
class Rows:
    """What is added to the words' rows and cosines.

    Fields:
        added: (K, D), to the rows.
        constants: (K,), to the cosines.
        threshold: the cosine below which a pixel is background, which the constant starts from; None: no background.
    """

    added: Tensor
    constants: Tensor
    threshold: float | None = None

    def logits(self, start: Start, features: Tensor) -> Tensor:
        """(N, K), cosines of classes with what is added; not scaled."""
        anchors = start.cosines(features)
        if self.threshold is not None and start.background is not None:
            anchors[:, start.background] = 0
        return anchors + features @ self.added.T + self.constants


def targets(cells: Cells, background: int | None) -> tuple[Tensor, Tensor]:
    """Features (N, D) and shares (N, K), rows that add up to 1, of all cells with labelled area.

    Area that nobody labelled belongs to the background where that is a class, and counts for nothing elsewhere.
    """
    shares = cells.shares[:, :-1].float().clone()
    if background is not None:
        shares[:, background] += cells.shares[:, -1].float()
    area = shares.sum(dim=1)
    seen = area > 0
    return cells.features[seen].float(), shares[seen] / area[seen, None]


def fit(start: Start, features: Tensor, shares: Tensor, weight: float = WEIGHT) -> Rows:
    """Rows and constants by L-BFGS: cross-entropy with the shares + λ s² (‖R‖² + ‖b - b₀‖²), from R = 0, b = b₀.

    Args:
        start: the words.
        features, shares: as `targets` gives them.
        weight: λ.
    """
    pixels = shares.sum(dim=0)
    of_cell = (shares / pixels.clamp(min=1e-9).sqrt()).sum(dim=1)
    goal = shares * (of_cell / of_cell.sum())[:, None]
    threshold = None if start.background is None else best_threshold(start, features, shares)
    first = words(start, threshold)
    anchors = start.anchors(features, threshold)
    added = first.added.clone().requires_grad_()
    moved = torch.zeros(start.classes, requires_grad=True)  # of the constants
    optimiser = torch.optim.LBFGS([added, moved], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = start.scale * (anchors + features @ added.T + moved)
        held = weight * start.scale**2 * (added.square().sum() + moved.square().sum())
        value = held - (goal * logits.log_softmax(dim=1)).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return Rows(added.detach(), first.constants + moved.detach(), threshold)


def words(start: Start, threshold: float | None = None) -> Rows:
    """Nothing learnt but the threshold below which a pixel is background."""
    constants = torch.zeros(start.classes)
    if threshold is not None and start.background is not None:
        constants[start.background] = threshold
    return Rows(torch.zeros(start.classes, start.text.shape[1]), constants, threshold)


def best_threshold(start: Start, features: Tensor, shares: Tensor) -> float:
    """The largest cosine below which cells are background, by mIoU over the cells; on a tie the middle one."""
    assert start.background is not None
    cosines = start.cosines(features)
    cosines[:, start.background] = -torch.inf
    best, place = cosines.max(dim=1)
    candidates = best.quantile(torch.linspace(0, 1, CANDIDATES))
    found = [miou(counts(place.masked_fill(best < value, start.background), shares)) for value in candidates]
    tied = [index for index, value in enumerate(found) if value == max(found)]
    return float(candidates[tied[len(tied) // 2]])


def counts(predicted: Tensor, shares: Tensor) -> Tensor:
    """(3, K): area where prediction and shares agree, that was predicted, and that is labelled."""
    chosen = torch.nn.functional.one_hot(predicted, shares.shape[1]).float()
    return torch.stack([(chosen * shares).sum(dim=0), chosen.sum(dim=0), shares.sum(dim=0)]).double()


def miou(counted: Tensor) -> float:
    """Mean IoU in percent over the classes that are labelled somewhere; NaN if none is."""
    agree, predicted, labelled = counted
    there = labelled > 0
    return float(100 * (agree / (predicted + labelled - agree))[there].mean())


@dataclass(frozen=True)
class Held:
    """What left-out pictures say of one way to answer.

    Fields:
        miou: in percent.
        loss: mean cross-entropy of their cells, which is less noisy.
    """

    miou: float
    loss: float


def left_out(start: Start, cells: Cells) -> dict[str | float, Held]:
    """How rows answer pictures that they were not fitted to: ``"words"``, ``"threshold"``, and the rows of each λ.

    Pictures are left out one at a time, or a fifth of them.
    """
    known = (targets(cells, start.background)[1] > 0).any(dim=0).float().mean()
    weights = [WEIGHT] + [LOOSE] * (known >= MOST) + [TIGHT] * (start.background is not None)
    number, seen_cells = len(cells.pictures), 0
    totals: dict[str | float, Tensor] = {}
    losses: dict[str | float, float] = {}
    for first in range(min(FOLDS, number)):
        rest, held = cells.but(range(first, number, FOLDS))
        features, shares = targets(rest, start.background)
        seen, truth = targets(held, start.background)
        if not len(features) or not len(seen):
            continue
        seen_cells += len(seen)
        candidates: dict[str | float, Rows] = {weight: fit(start, features, shares, weight) for weight in weights}
        candidates["words"] = words(start)
        if start.background is not None:
            candidates["threshold"] = words(start, candidates[WEIGHT].threshold)
        for name, candidate in candidates.items():
            logits = start.scale * candidate.logits(start, seen)
            totals[name] = totals.get(name, 0) + counts(logits.argmax(dim=1), truth)
            losses[name] = losses.get(name, 0.0) - float((truth * logits.log_softmax(dim=1)).sum())
    return {name: Held(miou(total), losses[name] / seen_cells) for name, total in totals.items()}


def chosen(held: dict[str | float, Held]) -> str | float:
    """The λ to fit with; ``"words"`` or ``"threshold"`` if left-out pictures gain neither in mIoU nor in loss."""
    weights = [name for name in held if not isinstance(name, str)]
    best: str | float = max(weights, key=lambda name: held[name].miou)
    if held[best].miou <= held[WEIGHT].miou + MARGIN:
        best = WEIGHT
    plain = max((name for name in held if isinstance(name, str)), key=lambda name: held[name].miou)
    lost = held[best].miou <= held[plain].miou and held[best].loss >= held[plain].loss
    return plain if lost else best
