"""Retrieve and Segment (RNS, arXiv 2602.23339): a linear classifier for each picture, trained on retrieved examples.

The examples are the cells that ``sclip tune`` keeps beside its file. Constants are the published ones. They were chosen
for OpenCLIP: models whose cosines lie further apart lose the classes that have no pictures (docs/tuning.md).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from ..fields import field_of
from ..memory.examples import Cells
from ..storage.fingerprint import fingerprint
from ..text.tuned import Tuned, cells_path
from .base import PatchScores, Place, Step
from .registry import register_step
from .scores import Kind

MIXES = (0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
"""Weights of a class's visual vector in the fused items; its word has the rest. In the paper they are the word's."""
FUSED, PSEUDO = 1.5, 0.2
RATE, DECAY = 0.002, 5e-4


@dataclass(frozen=True)
class Bank:
    """Examples by class.

    Fields:
        rows: (M, K, D), of each picture and class the unit mean feature; zeros where the picture does not show it.
        shown: (M, K) bool.
    """

    rows: Tensor
    shown: Tensor

    @property
    def visual(self) -> Tensor:
        """(K, D), unit sums of each class's rows; zeros for a class without pictures."""
        return F.normalize(self.rows.sum(dim=0), dim=1)


def bank_of(cells: Cells, columns: Sequence[int | None]) -> Bank:
    """The bank of some classes.

    Args:
        cells: the examples.
        columns: of each class its column in ``cells.shares``; None: it has no examples.
    """
    rows, shown = [], []
    for place in range(len(cells.pictures)):
        part = cells.picture(place)
        empty = torch.zeros(len(part.shares))
        shares = torch.stack([empty if c is None else part.shares[:, c].float() for c in columns])
        rows.append(F.normalize(shares @ F.normalize(part.features.float(), dim=1), dim=1))
        shown.append(shares.sum(dim=1) > 0)
    return Bank(torch.stack(rows), torch.stack(shown))


@dataclass(frozen=True)
class Training:
    """What one picture's classifier is trained on.

    Fields:
        features: (U, D): retrieved, fused, pseudo, in this order.
        targets: (U, K), soft labels.
        weights: (U,), summing to 1.
        counts: how many of each kind.
    """

    features: Tensor
    targets: Tensor
    weights: Tensor
    counts: tuple[int, int, int]


def retrieved(queries: Tensor, bank: Bank, neighbours: int) -> Tensor:
    """(N, k): places i K + c of the rows of largest inner product with each query (N, D)."""
    products = queries @ bank.rows.flatten(0, 1).T
    products = products.masked_fill(~bank.shown.flatten(), -torch.inf)
    return products.topk(min(neighbours, int(bank.shown.sum())), dim=1).indices


def training_of(
    queries: Tensor, bank: Bank, text: Tensor | None, neighbours: int, temperature: float, uniform: bool = False
) -> Training:
    """What is retrieved for unit queries (N, D), fused with the words, and guessed for classes without pictures.

    Args:
        queries: unit features of the picture's patches.
        bank: the examples.
        text: (K, D), unit; None: no words are used.
        neighbours: rows that each query retrieves.
        temperature: factor on the picture's cosines with the words, by whose softmax items are weighted.
        uniform: weigh all items alike.
    """
    classes = bank.rows.shape[1]
    rows = retrieved(queries, bank, neighbours).unique()
    labels = rows % classes
    eye = torch.eye(classes)
    features, targets, counts = [bank.rows.flatten(0, 1)[rows]], [eye[labels]], [len(rows), 0, 0]
    if text is not None:
        relevant = labels.unique()
        for mix in MIXES:
            features.append(F.normalize(mix * bank.visual[relevant] + (1 - mix) * text[relevant], dim=1))
            targets.append(eye[relevant])
        counts[1] = len(MIXES) * len(relevant)
        said = (queries @ text.T).argmax(dim=1)
        unseen = [c for c in said.unique().tolist() if not bool(bank.shown[:, c].any())]
        guessed = [F.normalize(queries[said == c].mean(dim=0), dim=0) for c in unseen]
        for mix in MIXES if unseen else ():
            fused = F.normalize(mix * torch.stack(guessed) + (1 - mix) * text[unseen], dim=1)
            features.append(fused)
            targets.append((100 * fused @ text.T).softmax(dim=1))
        counts[2] = len(MIXES) * len(unseen)
    target = torch.cat(targets)
    weights = torch.ones(len(target))
    if text is not None and not uniform:
        of_picture = F.normalize(queries.mean(dim=0), dim=0)
        weights = (temperature * of_picture @ text.T).softmax(dim=0)[target.argmax(dim=1)]
    return Training(torch.cat(features), target, weights / weights.sum(), (counts[0], counts[1], counts[2]))


def trained(training: Training, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) after full-batch AdamW from a start (K, D) and zeros."""
    with torch.inference_mode(False), torch.enable_grad():
        features, targets, weights = (
            values.clone() for values in (training.features, training.targets, training.weights)
        )
        weight, bias = start.clone().requires_grad_(), torch.zeros(len(start), requires_grad=True)
        plain, fused, _ = training.counts
        factor = torch.full((len(features),), PSEUDO)
        factor[:plain], factor[plain : plain + fused] = 1.0, FUSED
        # KL(soft ‖ softmax z) is the cross-entropy less the entropy of the soft label, which has no gradient.
        items = weights * factor / len(features)
        optimiser = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=DECAY)
        for _ in range(iterations):
            optimiser.zero_grad()
            loss = -(items * (targets * F.linear(features, weight, bias).log_softmax(dim=1)).sum(dim=1)).sum()
            loss.backward()
            optimiser.step()
    return weight.detach(), bias.detach()


def averaged(
    features: Tensor, boxes: Sequence[tuple[int, int, int, int]], patch: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Unit vectors of windows averaged on the picture's grid, made unit again.

    Args:
        features: (n, h, w, D) of n windows.
        boxes: (top, left, height, width) of each in pixels.
        patch: (height, width) of a patch in pixels.

    Returns:
        (N, D) of all cells that a window covers, and (n, h, w), of each window's patch its cell.
    """
    count, height, width, channels = features.shape
    tops = torch.tensor([round(box[0] / patch[0]) for box in boxes])
    lefts = torch.tensor([round(box[1] / patch[1]) for box in boxes])
    columns = int(lefts.max()) + width
    down = tops[:, None, None] + torch.arange(height)[None, :, None]
    cells = down * columns + lefts[:, None, None] + torch.arange(width)
    covered, cells = cells.flatten().unique(return_inverse=True)
    sums = torch.zeros(len(covered), channels).index_add_(0, cells, features.flatten(0, 2))
    return F.normalize(sums, dim=1), cells.view(count, height, width)


@register_step("rns")
@dataclass(frozen=True, kw_only=True)
class RetrieveAndSegment(Step):
    """Trains a linear classifier for each picture, on the examples that its patches retrieve and on the words.

    ``seg(picture, labels, steps="rns('mine.safetensors')")``, with a file of ``sclip tune`` and its examples beside it.
    A class is embedded by its first name. One training a picture costs 0.1 to 3 s on a core.

    Fields:
        examples: the file.
        neighbours: rows that each patch retrieves.
        temperature: factor on the picture's cosines with the words, by whose softmax items are weighted. 0: uniformly.
        iterations: steps of AdamW.
    """

    summary: ClassVar[str] = "train a classifier for each picture on retrieved examples; needs a file of sclip tune"
    source: ClassVar[str] = "Retrieve and Segment, arXiv 2602.23339"
    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "probability"
    examples: str | Path = field_of("", "file that 'sclip tune' made, with its examples beside it", holds="path")
    neighbours: int = field_of(4, "rows that each patch retrieves", low=1)
    temperature: float = field_of(10.0, "factor on cosines that weigh the examples by the picture", low=0)
    iterations: int = field_of(700, "steps of training", low=1, high=10**6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not str(self.examples) or not cells_path(self.examples).is_file():
            raise SettingError(
                f"rns got examples={str(self.examples)!r}, beside which there are no examples; expected "
                "rns('FILE.safetensors'), as 'sclip tune' makes it."
            )
        object.__setattr__(self, "examples", str(self.examples))

    def identity(self) -> Any:
        """A hash of the examples and of the options."""
        labels, cells = _read(self.examples, cells_path(self.examples).stat().st_mtime_ns)
        shown = fingerprint([cells.features, cells.shares])
        return ["rns", labels, shown, self.neighbours, self.temperature, self.iterations]

    def __call__(self, given: PatchScores) -> Tensor:
        labels, cells = _read(self.examples, cells_path(self.examples).stat().st_mtime_ns)
        words = given.words
        if cells.features.shape[1] != given.features.shape[-1]:
            raise SettingError(
                f"the examples of {self.examples} have {cells.features.shape[1]} values, this model's features "
                f"{given.features.shape[-1]}; tune again with this model."
            )
        bank = bank_of(cells, [labels.index(label) if label in labels else None for label in words.labels])
        if not bool(bank.shown.any()):
            raise SettingError(f"the examples of {self.examples} show none of {', '.join(words.labels)}.")
        first = [words.class_of_name.index(index) for index in range(len(words.labels))]
        text = words.text[torch.tensor(first)].float().cpu()
        queries, cells_of = averaged(given.features.float().cpu(), given.boxes, given.patch_size)
        training = training_of(queries, bank, text, self.neighbours, self.temperature)
        bound = (6 / queries.shape[1]) ** 0.5  # Kaiming's; the authors set no seed
        start = (2 * torch.rand(text.shape, generator=torch.Generator().manual_seed(0)) - 1) * bound
        weight, bias = trained(training, start, self.iterations)
        found = F.linear(queries, weight, bias).softmax(dim=1)[cells_of]
        return found[..., torch.tensor(words.class_of_name)].to(given.scores.device)


@functools.lru_cache(maxsize=4)
def _read(path: str | Path, changed: int) -> tuple[tuple[str, ...], Cells]:
    return Tuned.load(path).labels, Cells.load(cells_path(path))
