"""Windows over a picture, and their scores put together: as small matrices, not as padded copies of the whole.

Upsampling a window's patch scores, averaging windows where they overlap and resizing the whole are all linear, and
separable into rows and columns because windows stand on a grid. So the scores of all windows, side by side in one array
(K, gh, gw), become the scores of every pixel by one matrix over rows and one over columns. Any band of rows of the
result can be had without the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS_AT_ONCE = 512
VALUES_AT_ONCE = 2**24


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side; the last is shifted back to end with the picture.

    >>> window_starts(336, 224, 112), window_starts(500, 224, 112), window_starts(100, 224, 112)
    ([0, 112], [0, 112, 224, 276], [0])
    """
    if size <= window:
        return [0]
    return [min(i * stride, size - window) for i in range(-(-(size - window) // stride) + 1)]


@dataclass(frozen=True)
class WindowPlan:
    """How a picture is cut.

    Attributes:
        size: (height, width) of the picture in pixels.
        window: (height, width) of each window; smaller than asked for where the picture is.
        rows, columns: where windows start.
        patches: (h, w) patches in a window. The tower does not see rows and columns of pixels that fill no patch.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    rows: list[int]
    columns: list[int]
    patches: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], window: int, stride: int, patch_size: tuple[int, int]) -> WindowPlan:
        """A plan for a picture of ``size``; ``window`` 0 takes it whole. Sides of at least one patch are expected."""
        cut = (min(window, size[0]), min(window, size[1])) if window else size
        patches = (cut[0] // patch_size[0], cut[1] // patch_size[1])
        rows, columns = (window_starts(size[axis], cut[axis], stride) for axis in (0, 1))
        return cls(tuple(size), cut, rows, columns, patches)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def boxes(self) -> Iterator[tuple[int, int]]:
        """Top left corners of the windows, row by row."""
        return ((top, left) for top in self.rows for left in self.columns)

    def cut(self, pixels: Tensor, top: int, left: int) -> Tensor:
        """One window of (3, H, W)."""
        height, width = self.window
        return pixels[:, top : top + height, left : left + width]

    def empty_logits(self, names: int, like: Tensor) -> Tensor:
        """Room for the scores of all windows side by side, (names, gh, gw)."""
        return like.new_empty(names, len(self.rows) * self.patches[0], len(self.columns) * self.patches[1])

    def place(self, logits: Tensor, index: int) -> Tensor:
        """The view of ``logits`` that holds window ``index``, (names, h, w)."""
        row, column = divmod(index, len(self.columns))
        h, w = self.patches
        return logits[:, row * h : (row + 1) * h, column * w : (column + 1) * w]

    def stitched(self, logits: Tensor, output_size: tuple[int, int] | None = None) -> LogitMap:
        """Scores of every pixel of the picture, or of the picture resized to ``output_size`` afterwards."""
        operators = [
            _stitching(starts, cut, count, size, target).to(logits)
            for starts, cut, count, size, target in zip(
                (self.rows, self.columns), self.window, self.patches, self.size, output_size or self.size, strict=True
            )
        ]
        return LogitMap(logits, operators[0], operators[1])


def bilinear_matrix(size: int, target: int) -> Tensor:
    """(target, size): bilinear resizing of one side, align_corners False."""
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=False)[0].T


def _stitching(starts: list[int], cut: int, patches: int, size: int, target: int) -> Tensor:
    """(target, len(starts) · patches): upsample each window's patches, average overlaps, resize to ``target``."""
    upsample = bilinear_matrix(patches, cut)
    stitched = torch.zeros(size, len(starts) * patches)
    covered = torch.zeros(size, 1)
    for index, start in enumerate(starts):
        stitched[start : start + cut, index * patches : (index + 1) * patches] = upsample
        covered[start : start + cut] += 1
    stitched /= covered
    if target == size:
        return stitched
    # A row of bilinear_matrix has two entries, so the product is a weighted sum of two rows. Positions in single
    # precision, as F.interpolate computes them: at 1000 pixels a double would differ from it by 1e-4 of a pixel.
    position = ((torch.arange(target) + 0.5) * torch.tensor(size / target) - 0.5).clamp(min=0)
    first = position.long()
    weight = (position - first)[:, None]
    return stitched[first] * (1 - weight) + stitched[(first + 1).clamp(max=size - 1)] * weight


@dataclass
class LogitMap:
    """Scores of names at every pixel, kept as the small array and the two matrices that they are made of.

    Attributes:
        logits: (K, gh, gw).
        rows: (H, gh), each pixel row as weights of the rows of ``logits``; None where they are the pixel rows.
        columns: (W, gw), or None.
    """

    logits: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.logits.shape[-2:]
        return height if self.rows is None else len(self.rows), width if self.columns is None else len(self.columns)

    def band(self, start: int, stop: int) -> Tensor:
        """Scores of pixel rows ``start`` to ``stop``, (K, stop - start, W)."""
        if self.rows is None:
            rows = self.logits[:, start:stop]
        else:
            weights, used = _nonzero_columns(self.rows[start:stop])
            rows = weights @ self.logits[:, used]
        if self.columns is None:
            return rows
        out = rows.new_empty(*rows.shape[:2], len(self.columns))
        for left in range(0, len(self.columns), COLUMNS_AT_ONCE):
            weights, used = _nonzero_columns(self.columns[left : left + COLUMNS_AT_ONCE])
            out[..., left : left + COLUMNS_AT_ONCE] = rows[..., used] @ weights.T
        return out

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """All pixel rows, in bands of bounded size: the rows, and their scores."""
        height, width = self.size
        step = max(1, min(height, VALUES_AT_ONCE // (width * len(self.logits))))
        for start in range(0, height, step):
            stop = min(start + step, height)
            yield slice(start, stop), self.band(start, stop)

    def full(self) -> Tensor:
        """Scores of every pixel at once, (K, H, W)."""
        return self.band(0, self.size[0])

    def resized(self, size: tuple[int, int]) -> LogitMap:
        """The same scores at another size, bilinear."""
        operators = []
        for old, new, operator in zip(self.size, size, (self.rows, self.columns), strict=True):
            if old != new:
                resizing = bilinear_matrix(old, new).to(self.logits)
                operator = resizing if operator is None else resizing @ operator
            operators.append(operator)
        return LogitMap(self.logits, *operators)


def _nonzero_columns(matrix: Tensor) -> tuple[Tensor, slice]:
    """The columns of a banded matrix that are not all zero, and where they stand."""
    used = matrix.ne(0).any(dim=0).nonzero()
    first, last = int(used[0]), int(used[-1]) + 1
    return matrix[:, first:last], slice(first, last)
