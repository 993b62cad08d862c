"""Why a model has no tower here, in a sentence: what of it stands against one, or which part of it to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def why_not(model: Any, is_known: Callable[[nn.Module], bool]) -> str:
    """The reason that fits first, as a sentence about "it"; from the names that frameworks give to parts.

    Args:
        model: what no tower knows.
        is_known: whether a module is one that a tower knows.
    """
    if not isinstance(model, nn.Module):
        return "it is no torch.nn.Module."
    part = next((name for name, module in parts(model) if is_known(module)), None)
    if part is not None:
        return f"it is more than a CLIP, and its part model.{part} is an image tower that works: pass that one."
    visual: Any = getattr(model, "visual", getattr(model, "vision_model", model))
    modules = list(visual.modules())
    names = " ".join(name for name, _ in (*visual.named_modules(), *visual.named_parameters()))
    attentions = [module.attn for module in modules if isinstance(getattr(module, "attn", None), nn.Module)]
    if getattr(visual, "attn_pool", None) is not None and hasattr(visual, "conv1"):
        return "its tokens leave through a pool with learned queries (CoCa), and what comes out are these, no patches."
    if any(getattr(attention, "scaled_cosine", False) for attention in attentions):
        return "its attention compares by cosines, and not by s q kᵀ."
    if any(sign in names for sign in ("rel_pos", "relative_position", "cpb_mlp")):
        return "its attention adds relative positions (or windows, as Swin's) to s q kᵀ, which no method here does."
    if any(getattr(attention, "gate", None) is not None for attention in attentions):
        return "its attention has a gate, which has no place in q, k, v and out."
    if any(hasattr(attention, "lambda_init") for attention in attentions):
        return "its attention is the difference of two, and not one of s q kᵀ."
    if "rope" in names or "rotary" in names:
        return "its rotary positions are of a kind that no tower here turns."
    if "dist_token" in names:
        return "it has a distillation token beside its CLS token, and an embedding that is the mean of two heads."
    if not any(isinstance(module, CONVOLUTIONS) for module in modules) and any(
        isinstance(module, nn.Embedding) for module in modules
    ):
        return "it reads the tokens of a text, and no pictures."
    if "attn" not in names and "attention" not in names and any(isinstance(module, nn.Conv2d) for module in modules):
        return (
            "it is a network without attention, and without a CLIP's head: no attention pool, no known projecting head."
        )
    return "its structure is none that a registered tower knows."


def parts(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules that a caller may pass instead, outermost first: down to three levels, not items of lists."""
    found = [(name, module) for name, module in model.named_modules() if name and name.count(".") < 3]
    return sorted((pair for pair in found if not any(p.isdigit() for p in pair[0].split("."))), key=_depth)


def _depth(pair: tuple[str, nn.Module]) -> int:
    return pair[0].count(".")
