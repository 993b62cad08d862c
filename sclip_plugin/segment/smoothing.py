"""Scores of frames of one camera, smoothed over time."""

from __future__ import annotations

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
        self._before: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """The mean so far; values of another shape restart it."""
        if not self.share:
            return values
        if self._before is not None and self._before.shape == values.shape:
            values = lerp(values, self._before, self.share)
        self._before = values
        return values
