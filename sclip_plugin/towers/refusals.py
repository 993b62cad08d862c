"""Why a model has no tower here, in a sentence: what of it stands against one, or which part of it to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


def why_not(model: Any, is_known: Callable[[nn.Module], bool]) -> str:
    """The reason that fits first, as what follows "is refused: ".

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
    trunk = getattr(visual, "trunk", visual)
    block = last_block(trunk)
    attention = getattr(block, "attn", None)
    if getattr(trunk, "attn_pool", None) is not None and hasattr(trunk, "conv1"):
        return "its tokens leave through a pool with learned queries (CoCa), and what comes out are these, no patches."
    if getattr(attention, "scaled_cosine", False):
        return "its attention compares by cosines, and not by s q kᵀ."
    if getattr(attention, "rel_pos", None) is not None or hasattr(attention, "relative_position_bias_table"):
        return "its attention adds relative positions (or windows, as Swin's) to s q kᵀ, which no method here does."
    if getattr(attention, "gate", None) is not None:
        return "its attention has a gate, which has no place in q, k, v and out."
    if getattr(model, "token_embedding", None) is not None or hasattr(
        getattr(model, "embeddings", None), "token_embedding"
    ):
        return "it is a text tower."
    if block is None and not any("att" in name for name, _ in visual.named_modules()):
        return "it is a convolutional network without a CLIP's head: no attention pool, no known projecting head."
    return "its structure is none that a registered tower knows."


def parts(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules that a caller may pass instead, outermost first: down to three levels, not items of lists."""
    found = [(name, module) for name, module in model.named_modules() if name and name.count(".") < 3]
    return sorted((pair for pair in found if not any(p.isdigit() for p in pair[0].split("."))), key=_depth)


def _depth(pair: tuple[str, nn.Module]) -> int:
    return pair[0].count(".")


def last_block(trunk: Any) -> Any:
    """The last of a trunk's blocks, wherever a framework keeps them; None where it has none."""
    holders = (trunk, getattr(trunk, "transformer", None), getattr(trunk, "encoder", None))
    for holder in holders:
        for name in ("blocks", "resblocks", "layers"):
            blocks = getattr(holder, name, None)
            if isinstance(blocks, (nn.ModuleList, nn.Sequential)) and len(blocks):
                last = blocks[-1]
                return last_block(last) or last
    return None
