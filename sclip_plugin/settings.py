"""Everything that turns a picture into a label map, beside the model and the labels: one list for every surface.

The segmenter, the command lines, the pipeline, the Detectron2 node, presets and evaluation take their names, types,
ranges and help from the fields of `Settings`. Importing this module imports no torch; making settings does, since the
method's options are checked by the method.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .defaults import PAMR_STEPS
from .errors import SettingError, unknown_name
from .fields import check_fields, field_of
from .text.labels import imagenet_templates, parse_templates

if TYPE_CHECKING:
    from .masks import MaskSource
    from .memory.store import Memory
    from .methods import Method
    from .refinements import Refinement
    from .steps import PostStep


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that turns a picture into a label map, beside the model and the labels.

    Fields:
        method: what the last block computes, a name of `list_methods`; or a `Method` in hand, whose options become
            ``method_options`` where it is a registered one.
        method_options: the method's own options; what is not named has the method's default.
        templates: prompts with ``{}`` for the name; anything that `parse_templates` takes.
        resize_short_side: pixels of the picture's short side. 0 keeps its size.
        resize_long_side: largest long side, in pixels: a picture whose long side would be longer becomes smaller.
        window: side of the square windows in pixels; 0 takes the whole picture in one pass.
        stride: pixels from one window to the next; None for half the window.
        remainder: what becomes of a window's last rows and columns of pixels that fill no patch: ``"drop"``, the tower
            does not see them, as in SCLIP's code; ``"black"``, they are completed in black, as LPOSS and CLIP-DINOiser
            do.
        stitched: join the windows before the last block, so that the method's attention looks over the whole picture;
            what the outside features of a method are, it then has of the whole picture too.
        image_engineering: c of ITACLIP: each window is seen as it is, grey, blurred and flipped in two ways, at five
            times the cost: c of the first three and 1 - c of the flipped two; None for the plain window alone.
        post_steps: rules on the scores of all of a picture's patches, in order: texts such as ``"lposs(alpha=0.9)"``,
            or a `PostStep` in hand, which becomes its text where it is a registered one.
        logit_scale: factor on the cosines before the softmax over names.
        softmax: False takes the scores of names as they are, where a post-step has made probabilities of them.
        background: add SCLIP's background vocabulary as one more class, ``"background"``.
        threshold: pixels whose best class has a lower score stay unlabelled; None for none.
        prob_threshold: the benchmarks' rule: such pixels become class 0.
        area_threshold: the benchmarks' rule: classes whose share of all pixels that are not class 0 is no larger are
            dropped; None for none.
        masks: where regions come from, for methods that look at regions and for map correction: a text that
            `sclip_plugin.masks.find_masks` takes, such as ``"slic"`` or a folder, or a `MaskSource`; None for none.
        mask_vote: with masks, every region takes the label that most of its pixels have (map correction).
        memory: regions of unlabelled pictures that say what this picture's are: the folder of a memory, as
            ``sclip memory build`` makes it, or a `MemoryBank`; needs masks; None for none.
        pamr_steps: steps of pixel-adaptive refinement, 0 for none; 10 in the papers that use it. A picture of more than
            4 million pixels, or whose scores take more than 2 GiB, is refined at a smaller size.
        pamr_dilations: distances in pixels of the neighbours that it looks at.
        closing: side of the squares over which the label map is closed morphologically once it is decided, an odd
            number; 0 for none.
        normalize_scores: divide class scores by their sum once labels are decided.
        refine: a rule on the decided labels: a text such as ``"sam(coarse_thresh=0.2)"``, or a `Refinement` in hand,
            which becomes its text where it is a registered one; None for none.

    Raises:
        SettingError: a value of another type, out of range, or that does not fit another.
        UnknownNameError: no such method, or it has no such option.

    Example:
        >>> from sclip_plugin.settings import Settings
        >>> settings = Settings(method="naclip", method_options={"std": 4}, window=96)
        >>> settings.make_method().std, settings.window_stride
        (4.0, 48)
    """

    method: str | Method = field_of("csa", "what replaces the last block's attention; see 'sclip methods'")
    method_options: Mapping[str, Any] = field_of(factory=dict, help="the method's own options")
    templates: tuple[str, ...] = field_of(
        factory=imagenet_templates,
        help="prompts: imagenet (80 templates), scene (five more), plain (one), or your own text with {} for the name",
    )
    resize_short_side: int = field_of(
        336, "short side that the picture is resized to, in pixels; 0: not resized", low=0, high=2**15
    )
    resize_long_side: int = field_of(2048, "largest long side after resizing, in pixels", low=1, high=2**15)
    window: int = field_of(224, "side of the windows in pixels; 0: the whole picture in one pass", low=0, high=2**15)
    stride: int | None = field_of(
        None, "pixels from one window to the next; by default half the window", low=1, high=2**15
    )
    remainder: Literal["drop", "black"] = field_of(
        "drop", "of pixels that fill no patch: drop them, or complete them in black"
    )
    stitched: bool = field_of(False, "join the windows before the last block, which then sees the whole picture")
    image_engineering: float | None = field_of(
        None, "share of the plain, the grey and the blurred picture against flipped ones (ITACLIP)", low=0, high=1
    )
    post_steps: tuple[str | PostStep, ...] = field_of(
        (), "rules on the scores of all patches of a picture, such as 'lposs(alpha=0.9)'; in order"
    )
    logit_scale: float = field_of(40.0, "factor on the cosines before the softmax over names", above=0, high=1e6)
    softmax: bool = field_of(True, "make probabilities of the scores of names; off where a post-step already did")
    background: bool = field_of(False, "add one more class for everything else")
    threshold: float | None = field_of(None, "leave pixels with a lower best score unlabelled", low=0, high=1)
    prob_threshold: float = field_of(0.0, "pixels with a lower best score become class 0", low=0, high=1)
    area_threshold: float | None = field_of(
        None, "drop classes whose share of all that is not class 0 is no larger", low=0, high=1
    )
    masks: str | MaskSource | None = field_of(
        None, "where regions come from: slic, sam:NAME, panoptic:NAME, a folder of mask files"
    )
    mask_vote: bool = field_of(True, "with masks: every region takes the label that most of its pixels have")
    memory: str | Memory | None = field_of(
        None, "the folder of a memory of unlabelled pictures, as 'sclip memory build' makes it; needs masks"
    )
    pamr_steps: int = field_of(
        0, f"steps of refinement along the picture's colours (PAMR); {PAMR_STEPS} in the papers", low=0, high=1000
    )
    pamr_dilations: tuple[int, ...] = field_of(
        (8, 16), "distances of the neighbours that it looks at", low=1, high=4096
    )
    closing: int = field_of(0, "close the label map over squares of that side (ITACLIP: 3); 0: not", low=0, high=99)
    normalize_scores: bool = field_of(False, "divide class scores by their sum once labels are decided")
    refine: str | Refinement | None = field_of(
        None, "a rule on the decided labels, such as sam: masks that they prompt an outside SAM for"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", parse_templates(self.templates))
        check_fields(self, "")
        if self.window and self.stride is not None and self.stride > self.window:
            raise SettingError(
                f"stride={self.stride} is larger than window={self.window}: pixels between the windows would have no "
                "label. Give a stride of at most the window, or leave it out for half the window."
            )
        if self.closing and self.closing % 2 == 0:
            raise SettingError(f"closing={self.closing!r}; expected an odd number of pixels, such as 3, or 0.")
        if not self.pamr_dilations or len(self.pamr_dilations) > 16:
            raise SettingError(f"pamr_dilations={self.pamr_dilations!r}; expected 1 to 16 distances, such as (8, 16).")
        from .methods import make_method, options_of
        from .refinements import REFINEMENTS, make_refinement
        from .registry import text_of
        from .steps import STEPS, make_step

        given = self.post_steps if isinstance(self.post_steps, (tuple, list)) else (self.post_steps,)
        object.__setattr__(self, "post_steps", tuple(text_of(STEPS, make_step(step)) for step in given))
        if self.masks is not None:
            from .masks import MASK_SOURCES, find_masks

            object.__setattr__(self, "masks", text_of(MASK_SOURCES, find_masks(self.masks)))
        if self.refine is not None:
            object.__setattr__(self, "refine", text_of(REFINEMENTS, make_refinement(self.refine)))
        if isinstance(self.memory, PurePath):
            object.__setattr__(self, "memory", str(self.memory))
        if self.memory is not None and not isinstance(self.memory, str) and not hasattr(self.memory, "recalled"):
            raise SettingError(f"memory={self.memory!r:.200}; expected a folder or a MemoryBank.")
        if self.memory is not None and self.masks is None:
            raise SettingError(
                "a memory is asked region by region, and masks is None; expected masks, such as masks='slic' or "
                "'sam:NAME'."
            )
        method = make_method(self.method, dict(_mapping(self.method_options)))
        if self.stitched and method.windows_itself:
            raise SettingError(
                f"stitched=True, but {method.name or type(method).__name__} puts windows together itself; expected "
                "another method, or stitched=False."
            )
        if self.image_engineering is not None and (self.stitched or method.windows_itself or method.sees_masks):
            raise SettingError(
                "image_engineering shows a method changed windows, without their picture; expected a method that looks "
                "at each window by itself, and stitched=False."
            )
        name, options = options_of(method)
        object.__setattr__(self, "method", name)
        object.__setattr__(self, "method_options", MappingProxyType(options))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "method_options": dict(self.method_options)}  # a proxy can't be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "method_options", MappingProxyType(self.method_options))

    @property
    def window_stride(self) -> int:
        """Pixels from one window to the next."""
        return self.stride or max(1, self.window // 2)

    @property
    def method_name(self) -> str:
        return self.method if isinstance(self.method, str) else self.method.name or type(self.method).__name__

    def make_method(self) -> Method:
        """The method with its options."""
        from .methods import make_method

        return make_method(self.method, dict(self.method_options))

    def running_method(self, **bound: Any) -> Method:
        """What windows are taken through: the method, bound to what `Method.bind` takes, if given, and stitched."""
        from .methods.stitched import Stitched

        method = self.make_method()
        method = method.bind(**bound) if bound else method
        return Stitched(base=method) if self.stitched else method

    def make_steps(self) -> tuple[PostStep, ...]:
        """The post-steps with their options."""
        from .steps import make_step

        return tuple(make_step(step) for step in self.post_steps)

    def make_refinement(self) -> Refinement | None:
        """The refinement with its options."""
        from .refinements import make_refinement

        return None if self.refine is None else make_refinement(self.refine)

    def changed(self, **changes: Any) -> Settings:
        """A copy with other values.

        What is no field of the settings is an option of the method: ``changed(method="naclip", std=4.0)``. An option
        that is called like a setting goes into ``method_options``. With another method its options start anew; with
        another window the stride becomes half of it, unless it is given.

        Raises:
            UnknownNameError: neither a field nor an option of the method.
            SettingError: a value of another type, or out of range.
        """
        from .methods import make_method, options_of

        known = setting_names()
        options = {key: changes.pop(key) for key in list(changes) if key not in known}
        method = changes.pop("method", None)
        before: dict[str, Any] = {}
        if method is None:
            method, before = self.method, dict(self.method_options)
        method_fields = {f.name for f in dataclasses.fields(make_method(method)) if f.init}
        for key in options:
            if key not in method_fields:
                raise unknown_name("setting", key, known | method_fields)
        options = {**before, **_mapping(changes.pop("method_options", {})), **options}
        if "window" in changes and "stride" not in changes:
            changes["stride"] = None
        if not isinstance(method, str):
            method, options = make_method(method, options), {}
            method, options = options_of(method)
        return dataclasses.replace(self, method=method, method_options=options, **changes)

    def plain(self) -> dict[str, Any]:
        """For people, as values that JSON holds: templates by their number, and all of the method's options.

        `identity` tells two settings apart; this may not.
        """
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["method"], out["stride"] = self.method_name, self.window_stride
        out["method_options"] = {key: _plain(value) for key, value in self._all_options().items() if value is not None}
        out["masks"] = _plain(self.masks)
        out["memory"] = self.memory if isinstance(self.memory, str | None) else str(self.memory.folder)
        out["post_steps"] = tuple(_plain(step) for step in self.post_steps)
        out["refine"] = _plain(self.refine)
        out["templates"] = list(self.templates) if len(self.templates) <= 3 else f"{len(self.templates)} templates"
        return {key: list(value) if isinstance(value, tuple) else value for key, value in out.items()}

    def identity(self) -> str:
        """A hash of all that these settings say, templates and method options in full."""
        exact = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        kind = type(self.make_method())
        exact["method"], exact["stride"] = f"{kind.__module__}.{kind.__qualname__}", self.window_stride
        exact["method_options"] = {key: _plain(value) for key, value in self._all_options().items()}
        exact["masks"] = _plain(self.masks)
        exact["memory"] = self._memory_identity()
        exact["post_steps"] = [_plain(step) for step in self.post_steps]
        exact["refine"] = _plain(self.refine)
        return hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()

    def _memory_identity(self) -> str | None:
        from .memory import MemoryStore

        if self.memory is None:
            return None
        return MemoryStore(self.memory).identity() if isinstance(self.memory, str) else self.memory.identity()

    def _all_options(self) -> dict[str, Any]:
        method = self.make_method()
        return {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.name != "text"}


def setting_names() -> set[str]:
    """Names of all settings."""
    return {f.name for f in dataclasses.fields(Settings)}


def _mapping(options: Any) -> Mapping[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise SettingError(
            f"method_options={options!r:.200}; expected a mapping of names to values, such as {{'std': 4.0}}."
        )
    return options


def _plain(value: Any) -> Any:
    """An option for JSON: models and tensors by a hash of their values, methods and steps by their options."""
    from .fingerprint import fingerprint

    model: Any = value if hasattr(value, "state_dict") else getattr(value, "module", None)  # a guide's
    if hasattr(model, "state_dict"):
        return f"{type(model).__qualname__} {fingerprint(model.state_dict().values())}"
    if hasattr(value, "untyped_storage"):
        return f"tensor {fingerprint([value])}"
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        options = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": f"{type(value).__module__}.{type(value).__qualname__}", **options}
    return repr(value)
