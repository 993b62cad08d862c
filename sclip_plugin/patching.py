"""`apply` and `restore`: give a model's own forward the dense tokens, and take them away again.

The trunk's class is swapped for a subclass with the same name that overrides its forward, as torch's parametrizations
do. Nothing is moved, wrapped or hooked, so the state dict, ``isinstance`` checks, deepcopy, pickle, ``.to()``,
``torch.compile`` and replicas see the module that they know.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .dense import dense_tokens
from .errors import UnsupportedModelError
from .methods import Method, PictureMethod, make_method
from .towers import Tower, find_tower

M = TypeVar("M", bound=nn.Module)
OLD_COMPILER = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


@dataclass
class Patch:
    """What a patched trunk knows beside its own modules."""

    method: Method
    keep_cls: bool
    tower_type: type[Tower]
    # Above the trunk in some frameworks; a reference in the trunk's __dict__, so not a submodule of it.
    projection: nn.Module | None = None

    def tower(self, trunk: Any) -> Tower:
        return self.tower_type(trunk, self.projection)

    def dense_tokens(
        self, trunk: Any, pixel_values: Tensor, hidden_states: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """`sclip_plugin.dense.dense_tokens` of a trunk that has this patch."""
        tower = self.tower(trunk)
        return dense_tokens(tower, pixel_values, self.method, keep_cls=self.keep_cls, hidden_states=hidden_states)


@cache
def _patched_class(base: Any, mixin: Any) -> type:
    def reduce(self, protocol):
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _new_patched, (base, mixin), state

    namespace = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_sclip_base": base,
    }
    return type(base.__name__, (mixin, base), namespace)


def _unpatched_class(cls: Any) -> type:
    """The class without our patch: its base, or, where others have made a class of it, the same made of the base."""
    if "_sclip_base" in cls.__dict__:
        return cls._sclip_base
    bases = tuple(_unpatched_class(base) if hasattr(base, "_sclip_base") else base for base in cls.__bases__)
    return type(cls.__name__, bases, {k: v for k, v in cls.__dict__.items() if k not in ("__dict__", "__weakref__")})


def _become(trunk: nn.Module, cls: type) -> None:
    trunk.__class__ = cls
    if OLD_COMPILER and "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()  # what it compiled may not notice that a module's class is another


def check_effect(model: nn.Module, tower: Tower, keep_cls: bool) -> None:
    """Refuse to patch where it would have no effect, or more than was asked for; see `apply`."""
    trunk = tower.trunk
    own = trunk.__dict__.get("forward")
    if getattr(own, "__func__", None) is type(trunk).forward:
        del trunk.__dict__["forward"]  # what accelerate leaves behind: the forward of the class
    hooked = any("_hf_hook" in module.__dict__ for module in trunk.modules())
    devices = {parameter.device.type if parameter.is_meta else parameter.device for parameter in trunk.parameters()}
    if "forward" in trunk.__dict__ or hooked and (len(devices) > 1 or "meta" in devices):
        raise UnsupportedModelError(
            f"{type(trunk).__name__} runs under accelerate's hooks (dispatch_model, cpu_offload, a device_map over "
            "several devices), or has another forward on the instance: a patch of its class would have no effect or "
            "miss the weights. Load it onto one device, or remove the hooks with "
            "accelerate.hooks.remove_hook_from_submodules(model)."
        )
    for module in model.modules():
        classifies = isinstance(getattr(module, "classifier", None), nn.Module) and hasattr(module, "vision_model")
        if keep_cls and classifies and module is not trunk:
            outer = type(module).__name__
            raise UnsupportedModelError(
                f"{outer} classifies by the mean of its patches, which become dense: keep_cls=True cannot keep its "
                "logits. Pass keep_cls=False, or patch model.vision_model alone; dense_features changes nothing."
            )


def _new_patched(base: type, mixin: type) -> nn.Module:
    cls: Any = _patched_class(base, mixin)
    return cls.__new__(cls)


def apply(model: M, method: str | Method = "csa", *, keep_cls: bool = True, **options) -> M:
    """Make a model's own forward produce dense patch tokens, in place.

    Afterwards ``last_hidden_state`` (transformers), ``forward_features`` (timm) and ``visual(...)`` with its output
    tokens (open_clip, OpenAI's clip) hold what the method computes, at any size that the patch divides. No weight is
    copied, renamed or moved. Applying again replaces the method; `restore` takes it away.

    Args:
        model: a CLIP of transformers, open_clip, timm or OpenAI's ``clip``, or its image tower alone.
        method: a name of `list_methods`, or a `Method`.
        keep_cls: the CLS row keeps its ordinary attention, residual and FFN: the image embedding, and with it
            classification and retrieval, stays what it was; a tower that pools its patches (SigLIP) pools the ordinary
            ones. False: as in the papers' code, all rows are replaced, and the embedding with them.
        **options: of the method.

    Returns:
        The same model.

    Raises:
        UnsupportedModelError: no registered tower knows the model's structure, or accelerate's hooks stand in front of
            its forward.
        UnknownNameError: no such method or option.
        ValueError: ``keep_cls`` on a model that classifies by the mean of its patches, which become dense.

    Source: SCLIP, arXiv 2312.01597, for the default method.

    Example:
        >>> import torch, sclip_plugin as sp
        >>> from transformers import CLIPVisionModel
        >>> model = sp.apply(CLIPVisionModel.from_pretrained(sp.demo_model()).eval(), "clearclip")
        >>> model(torch.zeros(1, 3, 96, 96)).last_hidden_state.shape[1]
        145
        >>> model = sp.restore(model)
    """
    tower = find_tower(model)
    chosen = make_method(method, options)
    chosen.check_tower(tower)
    if isinstance(chosen, PictureMethod):
        raise UnsupportedModelError(
            f"{chosen.name!r} can't be applied in place: a forward of {type(model).__name__} norms and projects its "
            "tokens once, behind its last block. dense_features and Segmenter run it on the same model."
        )
    check_effect(model, tower, keep_cls)
    restore(model)
    trunk = tower.trunk
    trunk.__dict__["_sclip_patch"] = Patch(chosen, keep_cls, type(tower), tower.projection)
    _become(trunk, _patched_class(type(trunk), tower.patched))  # type: ignore[arg-type]
    return model


def apply_csa(model: M, **options) -> M:
    """`apply` with SCLIP's correlative self-attention; takes its options and ``keep_cls``.

    Example:
        >>> import sclip_plugin as sp
        >>> from transformers import CLIPModel
        >>> model = sp.apply_csa(CLIPModel.from_pretrained(sp.demo_model()))
    """
    return apply(model, "csa", **options)


def restore(model: M) -> M:
    """Take away what `apply` did; the outputs are bit-identical to those before. Without effect on other models.

    What others did to the model since stays: accelerate's hooks, a class that FSDP2 or a parametrization put on top.

    Example:
        >>> import sclip_plugin as sp
        >>> from transformers import CLIPModel
        >>> model = CLIPModel.from_pretrained(sp.demo_model())
        >>> sp.restore(sp.apply_csa(model)) is model
        True
    """
    trunk = find_tower(model).trunk
    if "_sclip_patch" in trunk.__dict__:
        patched = type(trunk).forward
        _become(trunk, _unpatched_class(type(trunk)))
        del trunk.__dict__["_sclip_patch"]
        for name in ("forward", "_old_forward"):  # accelerate's hooks keep the forward that they found
            if getattr(trunk.__dict__.get(name), "__func__", None) is patched:
                trunk.__dict__[name] = type(trunk).forward.__get__(trunk)
    return model


@contextlib.contextmanager
def applied(model: M, method: str | Method = "csa", **options) -> Iterator[M]:
    """`apply` for the length of a with block; afterwards the model has the method that it had before, or none.

    Example:
        >>> import sclip_plugin as sp
        >>> from transformers import CLIPModel
        >>> model = CLIPModel.from_pretrained(sp.demo_model())
        >>> with sp.applied(model, "naclip", std=5.0):
        ...     pass  # the model is dense here
    """
    trunk = find_tower(model).trunk
    before = trunk.__dict__.get("_sclip_patch")
    apply(model, method, **options)
    try:
        yield model
    finally:
        restore(model)
        if before is not None:
            apply(model, before.method, keep_cls=before.keep_cls)
