"""Cells of annotated pictures: what `tune` learns from, kept so that more examples need no second look at these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import FileFormatError, ShapeError
from ..storage.files import write_atomically

HEADER = "sclip_plugin cells 1"
UNLABELLED, IGNORED = -1, -2
"""In a label map: nobody said what is there; and it is not to be learnt from."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Patches of annotated pictures.

    Attributes:
        features: (N, D) float16, averaged over windows.
        shares: (N, C + 1) float16, the fraction of each cell's area that each class covers; last: unlabelled.
        pictures: of each picture its hash and the number of its cells, in the order of the rows.
    """

    features: Tensor
    shares: Tensor
    pictures: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, key: str, features: Tensor, label_map: np.ndarray, classes: int) -> Cells:
        """The cells of one picture.

        Args:
            key: hash of the picture.
            features: (D, h, w).
            label_map: (H, W) integers: a class, -1 where nobody said, -2 where nothing is to be learnt.
            classes: their number.

        Raises:
            ShapeError: the label map has other dimensions, or values that are no class.
        """
        values = np.unique(label_map)
        if label_map.ndim != 2 or label_map.dtype.kind not in "iu" or values[0] < IGNORED or values[-1] >= classes:
            raise ShapeError(
                f"a mask has shape {label_map.shape}, {label_map.dtype}, and values from {values[0]} to {values[-1]}; "
                f"expected a label map (H, W) of integers from 0 to {classes - 1}, or -1 for no label."
            )
        grid = (features.shape[1], features.shape[2])
        shares = torch.zeros(classes + 1, *grid)
        for value in values[values != IGNORED].tolist():
            part = torch.from_numpy(label_map == value).float()[None, None]
            shares[value] = F.interpolate(part, grid, mode="area")[0, 0]  # -1 is the last
        # A copy outside inference mode, which gradients can pass.
        rows = torch.from_numpy(features.flatten(1).T.half().cpu().numpy().copy())
        return cls(rows, shares.flatten(1).T.half(), ((key, grid[0] * grid[1]),))

    @classmethod
    def together(cls, parts: Sequence[Cells]) -> Cells:
        """All of them; of a picture that is in several the last."""
        last = {key: (part, place) for part in parts for place, (key, _) in enumerate(part.pictures)}
        taken = [part.picture(place) for part, place in last.values()]
        features, shares = (torch.cat([getattr(part, name) for part in taken]) for name in ("features", "shares"))
        return cls(features, shares, tuple(part.pictures[0] for part in taken))

    def picture(self, place: int) -> Cells:
        """One picture's."""
        start = sum(count for _, count in self.pictures[:place])
        rows = slice(start, start + self.pictures[place][1])
        return Cells(self.features[rows], self.shares[rows], self.pictures[place : place + 1])

    def but(self, places: Sequence[int]) -> tuple[Cells, Cells]:
        """All pictures but these, and these."""
        parts = [self.picture(place) for place in range(len(self.pictures))]
        left = [part for place, part in enumerate(parts) if place not in places]
        return Cells.together(left), Cells.together([parts[place] for place in places])

    def of_classes(self, before: Sequence[str], now: Sequence[str]) -> Cells:
        """With the columns of other classes; new ones have no area here.

        Raises:
            ShapeError: a class with area is not among them.
        """
        gone = [label for i, label in enumerate(before) if label not in now and bool((self.shares[:, i] > 0).any())]
        if gone:
            raise ShapeError(f"earlier examples show {', '.join(gone)}; expected these among the labels, too.")
        columns = [self.shares[:, before.index(label)] if label in before else None for label in now]
        empty = torch.zeros_like(self.shares[:, 0])
        shares = torch.stack([empty if column is None else column for column in [*columns, self.shares[:, -1]]], dim=1)
        return Cells(self.features, shares, self.pictures)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"features": self.features.contiguous(), "shares": self.shares.contiguous()}
        write_atomically(path, save(tensors, {HEADER: json.dumps(self.pictures)}))

    @classmethod
    def load(cls, path: Path) -> Cells:
        """Read what `save` wrote.

        Raises:
            FileFormatError: no such file, or another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                pictures = tuple((str(key), int(count)) for key, count in json.loads(file.metadata()[HEADER]))
                cells = cls(file.get_tensor("features"), file.get_tensor("shares"), pictures)
            if not len(cells.features) == len(cells.shares) == sum(count for _, count in pictures):
                raise ValueError("its tensors have other lengths than its header says")
            return cells
        except Exception as error:  # whatever a broken or foreign file makes of the reader
            raise FileFormatError(f"{path} holds no examples, as sclip tune writes them: {error}") from error
