"""Everything that turns a picture into a label map, beside the model and the labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .errors import unknown_name
from .methods import Method, make_method
from .text.labels import parse_templates


@dataclass(frozen=True)
class Decision:
    """How scores of names become a label map; see `sclip_plugin.segmenter.Settings` for each field."""

    logit_scale: float
    prob_threshold: float = 0.0
    area_threshold: float | None = None
    threshold: float | None = None
    normalize_scores: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that turns a picture into a label map, beside the model and the labels.

    Fields:
        method: what the last block computes.
        templates: prompts with ``{}`` for the name; see `parse_templates`.
        resize_short_side: pixels; the long side stays below 2048. 0 keeps the picture's size.
        window: side of the square windows in pixels; 0 takes the whole picture in one pass.
        stride: pixels from one window to the next.
        logit_scale: factor on the cosines before the softmax over names.
        background: add SCLIP's background vocabulary as one more class, ``"background"``.
        threshold: pixels whose best class has a lower score stay unlabelled; None for none.
        prob_threshold: the benchmarks' rule: such pixels become class 0.
        area_threshold: the benchmarks' rule: classes whose share of all pixels that are not class 0 is no larger are
            dropped; None for none.
        pamr_steps: steps of pixel-adaptive refinement, 0 for none; 10 in the papers that use it. A picture of more than
            4 million pixels, or whose scores take more than 2 GiB, is refined at a smaller size.
        pamr_dilations: distances in pixels of the neighbours that it looks at.
        normalize_scores: divide class scores by their sum once labels are decided.
    """

    method: Method = field(default_factory=lambda: make_method("csa"))
    templates: tuple[str, ...] = field(default_factory=lambda: parse_templates("imagenet"))
    resize_short_side: int = 336
    window: int = 224
    stride: int = 112
    logit_scale: float = 40.0
    background: bool = False
    threshold: float | None = None
    prob_threshold: float = 0.0
    area_threshold: float | None = None
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    normalize_scores: bool = False

    def changed(self, **changes: Any) -> Settings:
        """A copy with other values. ``method`` may be a name, ``templates`` anything that `parse_templates` takes;
        what is no field of the settings is an option of the method.

        Raises:
            UnknownNameError: neither a field nor an option of the method.
            ValueError: a value out of range.
        """
        known = {f.name for f in dataclasses.fields(self)}
        options = {key: changes.pop(key) for key in list(changes) if key not in known}
        method: Any = changes.pop("method", self.method)
        method_options = {f.name for f in dataclasses.fields(method)} if isinstance(method, Method) else None
        if method_options is not None:
            for key in options:
                if key not in method_options:
                    raise unknown_name("setting", key, known | method_options)
        if "templates" in changes:
            changes["templates"] = parse_templates(changes["templates"])
        settings = dataclasses.replace(self, method=make_method(method, options), **changes)
        for name, low in (("resize_short_side", 0), ("window", 0), ("stride", 1), ("pamr_steps", 0)):
            if getattr(settings, name) < low:
                raise ValueError(f"{name}={getattr(settings, name)}; expected {low} or more.")
        for name in ("threshold", "prob_threshold", "area_threshold"):
            value = getattr(settings, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected a share from 0 to 1.")
        return settings

    def plain(self) -> dict[str, Any]:
        """As values that JSON holds: the method by its name and options, templates by their number."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        method = self.method
        out["method"] = method.name
        out["method_options"] = {
            f.name: value
            if isinstance(value := getattr(method, f.name), (str, int, float, bool, tuple))
            else repr(value)
            for f in dataclasses.fields(method)
            if f.repr and getattr(method, f.name) is not None
        }
        out["templates"] = list(self.templates) if len(self.templates) <= 3 else f"{len(self.templates)} templates"
        return out

    def decision(self) -> Decision:
        return Decision(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Decision)})
