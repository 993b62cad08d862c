"""Windows over a picture, and their scores stitched by small matrices instead of padded copies of the whole.

Upsampling a window's patch scores, averaging overlaps and resizing the whole are linear. They are separable into rows
and columns, because windows stand on a grid. So one matrix over rows and one over columns turn the scores of all
windows, side by side in one array (gh, gw, K), into the scores of every pixel. Any tile of the result can be computed
alone. Names are the last dimension, since the best name and the softmax read all scores of a pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PictureError
from ..imaging.resampling import bilinear_matrix
from ..imaging.tiles import TiledMap
from ..methods import Method

MATRICES, MATRICES_A_PIXEL = 2**28, 16
"""How many bytes `WindowPlan.stitched` may take: so many for any picture, and so many for each pixel of a large one."""


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Start of each window along one side, in pixels; the last window ends with the picture.

    >>> window_starts(336, 224, 112), window_starts(500, 224, 112), window_starts(100, 224, 112)
    ([0, 112], [0, 112, 224, 276], [0])
    """
    if size <= window:
        return [0]
    return [min(i * stride, size - window) for i in range(-(-(size - window) // stride) + 1)]


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a picture.

    Attributes:
        size: (height, width) of the resized picture in pixels.
        window: (height, width) of each window in pixels, at most the picture's.
        rows, columns: start of the windows in pixels.
        patches: (h, w) patches of a window. Edge pixels that do not fill a patch are cropped.
        padded: (height, width) of a window with its padding, half of it in front.
        black: pad behind, with black; the patches of a window are then resized to the window alone.
        direct: resize the map of the whole picture straight to the output size (True), or first to ``size`` (False).
    """

    size: tuple[int, int]
    window: tuple[int, int]
    rows: list[int]
    columns: list[int]
    patches: tuple[int, int]
    padded: tuple[int, int]
    black: bool = False
    direct: bool = False

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        window: int,
        stride: int,
        patch_size: tuple[int, int],
        method: Method | None = None,
        black: bool = False,
    ) -> WindowPlan:
        """The plan for a picture of ``size``, with sides of at least one patch. ``window`` 0: one window.

        The method chooses its window and padding. ``black`` pads the last patches of a window with black.
        """
        direct = method is not None and method.takes_whole_pictures
        window = window if method is None else method.window(window)
        cut = (min(window, size[0]), min(window, size[1])) if window else size
        rows, columns = (window_starts(size[axis], cut[axis], stride) for axis in (0, 1))
        padded = cut if method is None else method.padded(cut)
        if black:
            padded = tuple(-(-side // patch) * patch for side, patch in zip(cut, patch_size, strict=True))  # type: ignore[assignment]
        patches = (padded[0] // patch_size[0], padded[1] // patch_size[1])
        direct = direct or (black and not window)
        return cls(tuple(size), cut, rows, columns, patches, padded, black, direct)  # type: ignore[arg-type]

    def with_patches(self, patches: tuple[int, int]) -> WindowPlan:
        """The plan with the grid of the method's features."""
        return self if patches == self.patches else dataclasses.replace(self, patches=patches)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def check_cost(self, output_size: tuple[int, int], name: str = "the picture") -> None:
        """Refuse a picture that is all length before anything is computed.

        The matrices of `stitched` have a row for each pixel along a side and a column for each patch along it. For a
        picture as people have them they are small beside it; for a line of 24 million pixels they take 23 GB.

        Raises:
            PictureError: they would take more than `MATRICES`, and more than `MATRICES_A_PIXEL` for each pixel.
        """
        cells = (len(self.rows) * self.patches[0], len(self.columns) * self.patches[1])
        sides = [before + after for before, after in zip(self.size, output_size, strict=True)]
        needed = 4 * sum(side * count for side, count in zip(sides, cells, strict=True))
        if needed > max(MATRICES, MATRICES_A_PIXEL * max(math.prod(self.size), math.prod(output_size))):
            height, width = output_size
            raise PictureError(
                f"{name} is {width:,} x {height:,} pixels: one side is so much longer than the other that segmenting "
                f"it would take {needed / 2**30:,.1f} GiB. Cut it into shorter pieces."
            )

    def grid(self, patch_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the patches of the whole picture."""
        height, width = (max(1, side // length) for side, length in zip(self.size, patch_size, strict=True))
        return height, width

    def boxes(self) -> Iterator[tuple[int, int, int, int]]:
        """(top, left, height, width) of the windows, row by row."""
        return ((top, left, *self.window) for top in self.rows for left in self.columns)

    def pad(self, windows: Tensor, black: Tensor) -> Tensor:
        """Normalised windows, (B, 3, H, W), with the padding: zeros, which are the mean colour, half of it in front; or
        ``black``, (3,), behind."""
        if tuple(self.padded) == tuple(self.window):
            return windows
        (high, wide), (height, width) = self.padded, self.window
        if self.black:
            whole = black.to(windows)[:, None, None].expand(len(windows), -1, high, wide).clone()
            whole[..., :height, :width] = windows
            return whole
        above, left = (high - height) // 2, (wide - width) // 2
        return F.pad(windows, (left, wide - width - left, above, high - height - above))

    def cut(self, pixels: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
        """One window of (3, H, W)."""
        return pixels[:, top : top + height, left : left + width]

    def empty_values(self, channels: int, like: Tensor) -> Tensor:
        """Empty array for the values of all windows side by side, (gh, gw, channels)."""
        return like.new_empty(len(self.rows) * self.patches[0], len(self.columns) * self.patches[1], channels)

    def place(self, logits: Tensor, index: int) -> Tensor:
        """View of ``logits`` for window ``index``, (h, w, names)."""
        row, column = divmod(index, len(self.columns))
        h, w = self.patches
        return logits[row * h : (row + 1) * h, column * w : (column + 1) * w]

    def window_by_window(self, logits: Tensor) -> Tensor:
        """(gh, gw, C) of all windows side by side to (n, h, w, C)."""
        (h, w), rows, columns = self.patches, len(self.rows), len(self.columns)
        return logits.view(rows, h, columns, w, -1).transpose(1, 2).reshape(rows * columns, h, w, -1)

    def side_by_side(self, windows: Tensor) -> Tensor:
        """(n, h, w, C) back to (gh, gw, C)."""
        (h, w), rows, columns = self.patches, len(self.rows), len(self.columns)
        return windows.view(rows, columns, h, w, -1).transpose(1, 2).reshape(rows * h, columns * w, -1)

    def of_window(self, values: Tensor) -> TiledMap:
        """Values of a window's patches (h, w, C) at its pixels."""
        return dataclasses.replace(self, size=self.window, rows=[0], columns=[0]).stitched(values)

    def stitched(self, logits: Tensor, output_size: tuple[int, int] | None = None) -> TiledMap:
        """Scores of every pixel of the picture, optionally resized to ``output_size``."""
        if self.direct:
            return TiledMap(logits).resized(output_size or self.size)
        rows, columns = (
            _stitching(starts, cut, padded, count, size, target)
            for starts, cut, padded, count, size, target in zip(
                (self.rows, self.columns),
                self.window,
                self.window if self.black else self.padded,
                self.patches,
                self.size,
                output_size or self.size,
                strict=True,
            )
        )
        return TiledMap(logits, rows, columns)


def _stitching(starts: list[int], cut: int, padded: int, patches: int, size: int, target: int) -> Tensor:
    """(target, len(starts) · patches): upsample each window's patches, average overlaps, resize to ``target``."""
    front = (padded - cut) // 2
    upsample = bilinear_matrix(patches, padded)[front : front + cut]
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
