"""How to look at a picture, and how to answer a question about it: one list of settings for every surface.

The segmenter, the command line, the pipeline, the Detectron2 node, presets and evaluation take names, types, ranges and
help from the fields of `Settings`. Importing this module imports no torch. Making settings does, since the method and
the steps check their own options.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .errors import SettingError, unknown_name
from .fields import check_fields, field_of
from .grammar import Part, plain_identity
from .text.labels import imagenet_templates, parse_ignored, parse_templates

if TYPE_CHECKING:
    from .masks import MaskSource
    from .methods import Method
    from .steps import Step


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to look at a picture, and how to answer, apart from the model and the labels.

    Methods, steps and masks are texts of one grammar, ``"name(option=value)"`` (`sclip_plugin.grammar`), or objects.
    Objects that have a text become that text.

    Fields:
        method: what replaces the last block: ``"csa"``, ``"naclip(std=4.0)"``, or a `Method` in hand.
        resize_short_side: short side of the resized picture in pixels. 0: not resized.
        resize_long_side: largest long side in pixels; a picture that would be longer becomes smaller.
        window: side of the square windows in pixels; 0: the whole picture in one pass.
        stride: pixels from one window to the next; None for half the window.
        padding: edge pixels that do not fill a whole patch: ``"crop"`` them, as in SCLIP's code, or pad the patch with
            ``"black"``, as in LPOSS and CLIP-DINOiser.
        stitched: join the windows before the last block, so that its attention spans the whole picture.
        views: ITACLIP's test-time augmentation, five passes per window: weight c for the mean of {original, grey,
            blurred}, 1 - c for the mean of the two flips. None: off.
        masks: source of regions, for methods and steps that use regions: ``"slic"``, ``"sam:NAME"``, a folder, or a
            `MaskSource`. None: no regions.
        templates: prompts with ``{}`` for the name; anything that `parse_templates` takes.
        background: add SCLIP's background vocabulary as one more class, ``"background"``.
        ignore: words that compete with the labels, and are no labels: ``"ball, cup"``, or a list. Their pixels stay
            unlabelled, and results and exports do not name them.
        logit_scale: factor on cosines before the softmax over names.
        steps: steps on scores and on the label map, in order: a text such as ``"pamr, closing(3), vote"``, or a list
            of texts and `Step` objects. Steps on patches come first, then those on pixels, then those on labels.

    Raises:
        SettingError: a value has the wrong type, is out of range, or conflicts with another one.
        UnknownNameError: a method, step, source of masks or option does not exist.

    Example:
        >>> from sclip_plugin.settings import Settings
        >>> settings = Settings(method="naclip(std=4)", window=96, steps="pamr, threshold(0.4)")
        >>> settings.method, settings.window_stride, settings.steps
        ('naclip(std=4.0)', 48, ('pamr', 'threshold(probability=0.4)'))
    """

    method: str | Method = field_of(
        "csa", "method that replaces the last block, such as 'naclip(std=4)'; see 'sclip methods'", features=True
    )
    resize_short_side: int = field_of(
        336, "short side of the resized picture, in pixels; 0: not resized", low=0, high=2**15, features=True
    )
    resize_long_side: int = field_of(
        2048, "largest long side after resizing, in pixels", low=1, high=2**15, features=True
    )
    window: int = field_of(
        224, "side of the windows in pixels; 0: the whole picture in one pass", low=0, high=2**15, features=True
    )
    stride: int | None = field_of(
        None, "pixels from one window to the next; default: half of the window", low=1, high=2**15, features=True
    )
    padding: Literal["crop", "black"] = field_of(
        "crop", "edge pixels that do not fill a whole patch: crop them, or pad the patch with black", features=True
    )
    stitched: bool = field_of(
        False, "join the windows before the last block, which then sees the whole picture", features=True
    )
    views: float | None = field_of(
        None, "test-time augmentation: weight of the original, grey and blurred views", low=0, high=1, features=True
    )
    masks: str | MaskSource | None = field_of(
        None, "source of regions: slic, sam:NAME, panoptic:NAME, or a folder of mask files"
    )
    templates: tuple[str, ...] = field_of(
        factory=imagenet_templates,
        help="prompts: imagenet (80 templates), scene (five more), tips (nine), plain (one), or your own text with {}",
    )
    background: bool = field_of(False, "add the class 'background' for everything else")
    ignore: tuple[str, ...] = field_of(
        (), "words that compete with the labels, such as 'ball, cup'; their pixels stay unlabelled"
    )
    logit_scale: float = field_of(40.0, "factor on the cosines before the softmax over names", above=0, high=1e6)
    steps: tuple[str | Step, ...] = field_of(
        (), "steps on scores and labels, in order, such as 'pamr, closing(3), vote'"
    )

    def __post_init__(self) -> None:
        from .masks import MASK_SOURCES, find_masks
        from .methods import METHODS
        from .steps import listed

        object.__setattr__(self, "templates", parse_templates(self.templates))
        object.__setattr__(self, "ignore", parse_ignored(self.ignore))
        check_fields(self, "")
        object.__setattr__(self, "method", METHODS.canonical(self.method))
        object.__setattr__(self, "steps", listed(self.steps))
        if self.masks is not None:
            object.__setattr__(self, "masks", MASK_SOURCES.canonical(find_masks(self.masks)))
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that are valid one by one and conflict with each other."""
        if self.window and self.stride is not None and self.stride > self.window:
            raise SettingError(
                f"stride={self.stride} is larger than window={self.window}: pixels between the windows would have no "
                "label. Give a stride of at most the window, or leave it out for half the window."
            )
        method, steps = self.make_method(), self.make_steps()
        whole = method.takes_whole_pictures
        if self.stitched and whole:
            raise SettingError(
                f"stitched=True, but {method.called()} joins windows itself; expected another method, or "
                "stitched=False."
            )
        if self.views is not None and (self.stitched or whole or method.sees_regions):
            raise SettingError(
                "views shows the method changed windows, without their picture; expected a method that looks at each "
                "window by itself, and stitched=False."
            )
        looking = next((step for step in steps if step.taps(12)), None)
        if looking is not None and whole:
            raise SettingError(
                f"the step {looking.called()} looks at the tower's blocks window by window, and {method.called()} "
                "joins windows itself; expected another method, or no such step."
            )
        wanting = next((step for step in steps if step.needs_regions), None)
        if wanting is not None and self.masks is None:
            raise SettingError(
                f"the step {wanting.called()} needs regions; also pass masks='slic' or masks='sam:NAME'."
            )

    @property
    def window_stride(self) -> int:
        """Pixels from one window to the next."""
        return self.stride or max(1, self.window // 2)

    @property
    def method_name(self) -> str:
        return self.make_method().called()

    @property
    def method_options(self) -> Mapping[str, Any]:
        """The method's options that differ from their defaults."""
        return MappingProxyType(self.make_method().changed_options())

    def make_method(self) -> Method:
        """The method with its options."""
        from .methods import make_method

        return make_method(self.method)

    def make_steps(self) -> tuple[Step, ...]:
        """The steps with their options, in order."""
        from .steps import make_step

        return tuple(make_step(step) for step in self.steps)

    def sees_regions(self) -> bool:
        """Whether the method or a step uses the regions of ``masks``."""
        return self.make_method().sees_regions or any(step.needs_regions for step in self.make_steps())

    def changed(self, **changes: Any) -> Settings:
        """A copy with other values.

        A name that is neither a field nor a short form is an option of the method: ``changed(method="naclip", std=4)``.
        Another method starts with its default options. Another window sets the stride to half of it, unless the stride
        is given.

        Short forms add a step at its place, or replace the step of that name: ``threshold=0.4``, ``refine=True``
        (pamr and specks), ``refine="sam(...)"``. False removes the steps, None changes nothing.

        Raises:
            UnknownNameError: a name is neither a field nor an option of the method.
            SettingError: a value has the wrong type or is out of range.
        """
        from .methods import METHODS
        from .steps.short import SHORT_FORMS, with_short_forms

        short = {key: changes.pop(key) for key in SHORT_FORMS if key in changes}
        options = {key: changes.pop(key) for key in list(changes) if key not in setting_names()}
        method = METHODS.make(changes.pop("method", self.method))
        known = {field.name for field in method.options()}
        for key in options:
            if key not in known | method.bound:
                raise unknown_name("setting", key, setting_names() | known | set(SHORT_FORMS))
        if "window" in changes and "stride" not in changes:
            changes["stride"] = None
        if short:
            changes["steps"] = with_short_forms(changes.get("steps", self.steps), short)
        return dataclasses.replace(self, method=METHODS.make(method, **options), **changes)

    def named_files(self) -> Iterator[tuple[str, str]]:
        """(setting, text) of every option that names a file, a folder or an outside model."""
        for name, part in self._parts():
            for option, text in part.named_files():
                yield f"{name}: {part.called()}({option}=…)", text

    def with_absolute_paths(self) -> Settings:
        """A copy in which all files and folders have absolute paths, for processes in other folders."""
        changes: dict[str, Any] = {"method": self.make_method().with_absolute_paths()}
        changes["steps"] = tuple(step.with_absolute_paths() for step in self.make_steps())
        if self.masks is not None:
            from .masks import find_masks

            changes["masks"] = find_masks(self.masks).with_absolute_paths()
        return dataclasses.replace(self, **changes)

    def _parts(self) -> Iterator[tuple[str, Part]]:
        yield "method", self.make_method()
        yield from (("steps", step) for step in self.make_steps())
        if self.masks is not None:
            from .masks import find_masks

            yield "masks", find_masks(self.masks)

    def plain(self) -> dict[str, Any]:
        """The settings for people, in JSON's types: parts as texts, templates as their number.

        Different settings may give the same `plain`; only `identity` tells them apart.
        """
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["stride"] = self.window_stride
        out["templates"] = list(self.templates) if len(self.templates) <= 3 else f"{len(self.templates)} templates"
        return {key: _plain(value) for key, value in out.items()}

    def identity(self) -> str:
        """A hash of all settings, templates and options included."""
        return self._hash(f.name for f in dataclasses.fields(self))

    def deciding_features(self, masks: bool = False) -> tuple[str, ...]:
        """Names of the settings that the features of a picture depend on.

        Args:
            masks: include ``masks``, whatever the method.
        """
        names = tuple(f.name for f in dataclasses.fields(self) if f.metadata.get("features"))
        return (*names, "masks") if masks or self.make_method().sees_regions else names

    def feature_identity(self, masks: bool = False) -> str:
        """A hash of `deciding_features`."""
        return self._hash(self.deciding_features(masks))

    def plain_features(self) -> dict[str, Any]:
        """The values of `deciding_features`, in JSON's types; equal only if the settings are."""
        return self._exact(self.deciding_features())

    def _hash(self, names: Any) -> str:
        return hashlib.sha256(json.dumps(self._exact(names), sort_keys=True).encode()).hexdigest()

    def _exact(self, names: Any) -> dict[str, Any]:
        exact = {name: getattr(self, name) for name in names}
        exact["method"] = self.make_method()
        if "stride" in exact:
            exact["stride"] = self.window_stride
        if "steps" in exact:
            exact["steps"] = self.make_steps()
        return {name: plain_identity(value) for name, value in exact.items()}


def setting_names() -> set[str]:
    """Names of all settings."""
    return {f.name for f in dataclasses.fields(Settings)}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return plain_identity(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
