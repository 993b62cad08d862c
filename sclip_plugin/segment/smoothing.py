"""Scores of frames of one camera, smoothed over time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, lerp

from ..errors import SettingError


class MovingMean:
    """Exponentially weighted mean of successive values.

    Args:
        share: weight of the earlier values in each mean, from 0 to below 1.

    Raises:
        SettingError: ``share`` is out of range.

    Example:
        >>> import torch
        >>> mean = MovingMean(0.75)
        >>> [float(mean(torch.tensor([value]))) for value in (0.0, 1.0, 1.0)]
        [0.0, 0.25, 0.4375]
    """

    def __init__(self, share: float) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise SettingError(
                f"smoothing={share!r}; expected the share of the frames before, from 0 (each by itself) to below 1."
            )
        self.share = share
        self._before: dict[str, tuple[Any, Tensor]] = {}

    def __call__(self, values: Tensor, of: str = "scores", grid: Any = None) -> Tensor:
        """The mean so far of these values; those of another shape, or of another grid of patches, restart it."""
        if not self.share:
            return values
        seen, before = self._before.get(of, (None, values))
        if seen == (values.shape, grid):
            values = lerp(values, before, self.share)
        self._before[of] = (values.shape, grid), values
        return values
