"""What formats read: a result, and which of its pixels count as one thing."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

Regions = Literal["components", "classes"]
"""What counts as one thing: every connected region, or all that a class covers."""


class Result(Protocol):
    """What formats read of a `Segmentation`."""

    labels: tuple[str, ...]
    label_map: np.ndarray
    picture: Image.Image | None
    settings: dict[str, Any]
    presence: dict[str, float] | None

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def scores(self) -> np.ndarray | None: ...
    def areas(self) -> dict[str, float]: ...
    def mean_scores(self) -> dict[str, float]: ...
    def rows(self) -> list[dict[str, Any]]: ...
