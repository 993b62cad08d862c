"""From a model's name and a preset to the function that `evaluate` runs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import nn

from ..errors import unknown_name
from ..methods import make_method
from ..protocols.presets import Preset

if TYPE_CHECKING:
    from ..segment.segmenter import Segmenter


class SegmenterPrediction:
    """A segmenter with one preset's settings, as a function from pictures to label maps.

    Args:
        segmenter: with the model; its own settings are not used.
        preset: all settings, and the classes.
        changes: settings that differ from the preset's: fields of the segmenter's settings or options of the method.

    Raises:
        UnknownNameError: a change of something that is neither.

    >>> predict = SegmenterPrediction(Segmenter.from_pretrained("demo"), load_preset("sclip/voc21"))  # doctest: +SKIP
    >>> predict([picture])[0].shape == (picture.height, picture.width)  # doctest: +SKIP
    True
    """

    def __init__(self, segmenter: Segmenter, preset: Preset, changes: Mapping[str, Any] | None = None) -> None:
        self.segmenter = segmenter
        self.preset = preset
        self.labels = [list(names) for names in preset.classes]
        known = {f.name for f in dataclasses.fields(segmenter.settings)}
        options = {f.name for f in dataclasses.fields(make_method(preset.method)) if f.repr}
        for name in changes or {}:
            if name == "method" or name not in known | options:
                raise unknown_name("setting", name, (known | options) - {"method"})
        shared = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset) if f.name in known}
        self.arguments: dict[str, Any] = {**shared, **preset.method_options, **(changes or {})}

    def __call__(self, pictures: list[Image.Image]) -> Sequence[np.ndarray]:
        return [result.label_map for result in self.segmenter(pictures, self.labels, **self.arguments)]

    def settings(self, model: str) -> dict[str, Any]:
        """What the figures depend on, as plain values, for `evaluate`."""
        names = "\n".join("\t".join(names) for names in self.labels)
        return {
            "model": model,
            "preset": self.preset.name,
            "published_as": self.preset.published_as,
            "labels": f"{len(self.labels)} classes, {hashlib.sha256(names.encode()).hexdigest()[:12]}",
            "weights": weights_fingerprint(self.segmenter.model),
            "dtype": self.segmenter.dtype,
            **self.segmenter.settings.changed(**self.arguments).plain(),
        }


def weights_fingerprint(model: nn.Module) -> str:
    """A short hash of a model's weights, so that a run is not resumed with others of the same name.

    Up to 256 values of each tensor, evenly spread, tell trainings apart and take milliseconds.

    >>> weights_fingerprint(nn.Linear(2, 2)) == weights_fingerprint(nn.Linear(2, 2))
    False
    """
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // 256)].float().cpu().numpy()
        found.update(f"{name} {tuple(tensor.shape)}".encode() + values.tobytes())
    return found.hexdigest()[:12]
