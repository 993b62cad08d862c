"""From a model's name and a preset to the function that `evaluate` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SettingError
from ..protocols.presets import Preset
from .calibration import Answer

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


class SegmenterPrediction:
    """A segmenter with one preset's settings, as a function from pictures to label maps.

    Args:
        segmenter: with the model; its own settings are not used.
        preset: all settings, and the classes.
        changes: settings that differ from the preset's: fields of `Settings` or options of the method.

    Raises:
        UnknownNameError: a change of something that is neither.
        SettingError: a value of another type, or out of range.

    >>> predict = SegmenterPrediction(Segmenter.from_pretrained("demo"), load_preset("sclip/voc21"))  # doctest: +SKIP
    >>> predict([picture])[0].shape == (picture.height, picture.width)  # doctest: +SKIP
    True
    """

    def __init__(self, segmenter: Segmenter, preset: Preset, changes: Mapping[str, Any] | None = None) -> None:
        self.segmenter = segmenter
        self.preset = preset
        self.labels = [list(names) for names in preset.classes]
        if "method" in (changes or {}):
            raise SettingError(
                "the method is the preset's; name another with --method, not among the changed settings."
            )
        self.chosen = segmenter.chosen(preset.settings, dict(changes or {}))

    def __call__(self, pictures: list[Image.Image]) -> Sequence[np.ndarray]:
        return [result.label_map for result in self.segmenter(pictures, self.labels, self.chosen)]

    def answers(self, pictures: list[Image.Image]) -> list[Answer]:
        """The label maps with scores of pixels, and presence where it is asked for."""
        return [Answer.of(result) for result in self.segmenter(pictures, self.labels, self.chosen)]

    @property
    def device(self) -> Any:
        """The model's, whose memory `evaluate` watches."""
        return self.segmenter.device

    def settings(self, model: str) -> dict[str, Any]:
        """What the figures depend on, as plain values, for `evaluate`."""
        return {
            "model": model,
            "preset": self.preset.name,
            "published_as": self.preset.published_as,
            "differs": self.preset.differs,
            "labels": f"{len(self.labels)} classes",
            "dtype": self.segmenter.dtype,
            **self.chosen.plain(),
            "identity": self.segmenter.identity(self.labels, self.chosen),
        }
