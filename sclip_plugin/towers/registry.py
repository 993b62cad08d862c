"""The registry of towers, and the search for the one that fits a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..errors import UnsupportedModelError
from ..registry import Registry
from .base import Tower
from .refusals import why_not

T = TypeVar("T", bound=Tower)

TOWERS: Registry[type[Tower]] = Registry("tower", "sclip_plugin.towers")
"""Maps a name to a `Tower` subclass; its ``find(model)`` is asked whether it knows the model's structure."""


def register_tower(name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: make a `Tower` subclass known to everything that takes a model.

    An installed package can do the same with an entry point in the group ``sclip_plugin.towers``.
    ``docs/extending.md`` writes one.
    """
    return TOWERS.register(name)  # type: ignore[return-value]


def list_towers() -> tuple[str, ...]:
    """Names of all registered towers, those of installed entry points included.

    Example:
        >>> import sclip_plugin as sp
        >>> {"transformers", "open_clip", "timm"} <= set(sp.list_towers())
        True
    """
    return TOWERS.names()


def find_tower(model: nn.Module) -> Tower:
    """The image tower of a model, recognised by structure.

    Args:
        model: a whole CLIP or its image tower; wrapped by ``torch.compile`` or ``DataParallel``, too.

    Raises:
        UnsupportedModelError: names the model's class and lists what works.
    """
    candidate: Any = model
    while candidate is not None:
        candidate = unwrapped(candidate)
        tower = _found(candidate)
        if tower is not None:
            trunk = unwrapped(tower.trunk)
            return tower if trunk is tower.trunk else type(tower)(trunk, tower.projection)
        candidate = getattr(candidate, "module", None)
    supported = "\n  ".join(TOWERS[name].models or name for name in list_towers())
    inner = next((type(getattr(model, n)).__name__ for n in ("visual", "vision_model") if hasattr(model, n)), None)
    raise UnsupportedModelError(
        f"{type(model).__name__}{f' (its image tower is {inner})' if inner else ''} cannot be used: "
        f"{why_not(model, lambda part: _found(part) is not None)} What works:\n  {supported}\n"
        "Another model can be added with sclip_plugin.register_tower (docs/extending.md)."
    )


def _found(model: Any) -> Tower | None:
    found = (TOWERS[name].find(model) for name in list_towers())
    return next((tower for tower in found if tower is not None), None)


def unwrapped(module: Any) -> Any:
    """The module that torch.compile or PEFT wrapped: a wrapper shows its attributes, but must not be patched itself."""
    while True:
        inside = getattr(module, "_modules", {})
        of_peft = any(base.__module__.partition(".")[0] == "peft" for base in type(module).__mro__)
        if "_orig_mod" in inside:
            module = module._orig_mod
        elif of_peft and ("base_model" in inside or "model" in inside):  # PeftModel, and the tuner in it
            module = module.base_model if "base_model" in inside else module.model
        else:
            return module
