"""Values at every pixel of a picture that are computed a tile at a time, from a small array and two matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ..device import Budget, budget
from .resampling import bilinear_matrix, weighted


@dataclass
class TiledMap:
    """Values at every pixel, kept as the small array and the two matrices that they are made of.

    Attributes:
        values: (gh, gw, K): scores of K names, probabilities, or features.
        rows: (H, gh) on the CPU, each pixel row as weights of the rows of ``values``; None where they are the pixel
            rows.
        columns: (W, gw), or None.
        limits: how much is computed at once; what suits the device where None.
    """

    values: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
    limits: Budget | None = None

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.values.shape[:2]
        return height if self.rows is None else len(self.rows), width if self.columns is None else len(self.columns)

    def tiles(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """All pixels, in tiles of bounded size: the rows and columns of each, and its values (h, w, K)."""
        (height, width), limits = self.size, self.limits or budget(self.values.device)
        across = min(width, limits.tile_columns)
        down = max(1, limits.tile_values // (across * self.values.shape[2]))
        blocks = [(columns, self._weights(self.columns, columns)) for columns in _parts(width, across)]
        for rows in _parts(height, down):
            weights, used = self._weights(self.rows, rows)
            # (h, gh) by (gh, gw K), then (w, gw) by (gw, K) for each pixel row.
            taken = self.values[used]
            band = weighted(weights, taken.flatten(1)[None])[0].unflatten(1, taken.shape[1:])
            for columns, (across_weights, across_used) in blocks:
                yield (rows, columns), weighted(across_weights, band[:, across_used])

    def full(self) -> Tensor:
        """Values of every pixel at once, (H, W, K)."""
        out = self.values.new_empty(*self.size, self.values.shape[2])
        for place, tile in self.tiles():
            out[place] = tile
        return out

    def resized(self, size: tuple[int, int]) -> TiledMap:
        """The same values at another size, bilinear."""
        operators = []
        for old, new, operator in zip(self.size, size, (self.rows, self.columns), strict=True):
            if old != new:
                resizing = bilinear_matrix(old, new)
                operator = resizing if operator is None else weighted(resizing, operator[None])[0]
            operators.append(operator)
        rows, columns = operators
        return TiledMap(self.values, rows, columns, self.limits)

    def _weights(self, matrix: Tensor | None, part: slice) -> tuple[Tensor | None, slice]:
        """Of a banded matrix the rows ``part`` without the columns that are all zero, and where those left stand."""
        if matrix is None:
            return None, part
        used = matrix[part].ne(0).any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        return matrix[part, first:last].to(self.values.device, self.values.dtype), slice(first, last)


def _parts(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
