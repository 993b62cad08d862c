"""What a layer of a model computes, read as the model itself would: adapters, hooks and int8 weights take part.

A method wants the queries of a block alone, or the values of a pool. Of a plain Linear or MultiheadAttention the rows
that make them are enough. Every other layer is called as its model calls it, since what it computes need not be its
weights: adapters of PEFT and loralib, quantised layers, parametrizations, forward hooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedModelError


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module runs more than the forward of its class."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def base_of(module: Any) -> Any:
    """The layer that PEFT's adapters stand around; the module itself where there are none."""
    while isinstance(getattr(module, "base_layer", None), nn.Module):
        module = module.base_layer
    return module


def weight_of(layer: Any) -> Tensor:
    """The weight of a layer that its model reads and never calls.

    Raises:
        UnsupportedModelError: it has none that can be read, as a quantised layer.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise UnsupportedModelError(
            f"a {type(layer).__name__} stands where the model reads a weight and calls no layer; the model's own "
            "forward fails there too. Leave this layer as it was (unquantised)."
        )
    return weight


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of a module's first weight: what it wants its input in. Replicas of DataParallel have no parameters."""
    for each in module.modules():  # a loop, which older compilers trace
        weight = getattr(each, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight.dtype
    return torch.float32  # of layers quantised to int8, which take float32


def kernel_of(convolution: Any) -> tuple[int, int]:
    """(height, width) of a patch embedding's kernel."""
    height, width = base_of(convolution).kernel_size
    return height, width


def table_of(embedding: Any) -> Tensor:
    """All rows of a table of positions, (rows, C), adapters included."""
    if is_plain(embedding, nn.Embedding):
        return embedding.weight
    return embedding(torch.arange(base_of(embedding).num_embeddings, device=weight_of(embedding).device))


def is_plain(layer: Any, kind: type[nn.Module]) -> bool:
    """Whether a layer computes nothing but what its weight says: that very class, no hook, a weight of torch's own."""
    return type(layer) is kind and not is_hooked(layer) and type(layer.weight) in (Tensor, nn.Parameter)


def part_of(layer: Any, x: Tensor, part: int, parts: int) -> Tensor:
    """One of the equal parts of what a fused projection (qkv, kv) gives, (B, T, C) to (B, T, C')."""
    if not is_plain(layer, nn.Linear):
        return layer(x).chunk(parts, dim=-1)[part]
    return linear_rows(x, layer.weight, layer.bias, part, parts)


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None, part: int, parts: int) -> Tensor:
    """One of the equal parts of ``F.linear(x, weight, bias)``; the others are not computed, where rows can be taken."""
    if type(weight) not in (Tensor, nn.Parameter):  # int8 and the like, of a class of its own
        return F.linear(x, weight, bias).chunk(parts, dim=-1)[part]
    width = weight.shape[0] // parts
    rows = slice(part * width, (part + 1) * width)
    return F.linear(x, weight[rows], None if bias is None else bias[rows])


@dataclass(frozen=True, eq=False)
class Projections:
    """What an attention of torch multiplies with: of q, k and v (3 C, C), and of its output (C, C)."""

    weight: Tensor
    bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None

    def part(self, x: Tensor, name: str) -> Tensor:
        """``"q"``, ``"k"`` or ``"v"`` of x, (B, T, C) in and out."""
        return linear_rows(x, self.weight, self.bias, "qkv".index(name), 3)

    def out(self, merged: Tensor) -> Tensor:
        return F.linear(merged, self.out_weight, self.out_bias)


def is_multihead(attention: Any) -> bool:
    """torch's own, an adapter around one, or a class made of one."""
    return isinstance(base_of(attention), nn.MultiheadAttention)


def projections_of(attention: Any, x: Tensor) -> Projections:
    """The projections of a MultiheadAttention: its parameters, or, where it is called through something, those that
    reach ``F.multi_head_attention_forward`` when it attends to x (PEFT adds its adapters to the weights for the length
    of a call).

    Raises:
        UnsupportedModelError: a hook or a wrapper changes what enters the attention or what leaves it.
    """
    kind = type(attention)
    if parametrize.is_parametrized(attention):
        kind = kind.__bases__[0]
    if kind is nn.MultiheadAttention and not is_hooked(attention):
        # The attention itself reads the weights of out_proj and never calls it: what stands there takes no part.
        out = attention.out_proj
        return Projections(attention.in_proj_weight, attention.in_proj_bias, weight_of(out), out.bias)
    with _Caught() as caught:
        returned = attention(x, x, x, need_weights=False)
    result = returned[0] if isinstance(returned, tuple) else returned
    if not caught.calls or not caught.is_all(x, result):
        raise UnsupportedModelError(
            f"a forward hook or a wrapper of {type(attention).__name__} changes what enters the attention or what "
            "leaves it, and a method takes the attention's place. Merge it into the weights, or remove the hook."
        )
    given = caught.calls[0][0]
    return Projections(given["in_proj_weight"], given["in_proj_bias"], given["out_proj_weight"], given["out_proj_bias"])


class _Caught(TorchFunctionMode):
    """Notes with what ``F.multi_head_attention_forward`` is called while the mode is on, and what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[dict[str, Any], Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            given = inspect.signature(func).bind(*args, **(kwargs or {})).arguments
            self.calls.append((given, output[0].detach().clone()))
        return output

    def is_all(self, x: Tensor, result: Tensor) -> bool:
        """Whether the attention saw x as it is, and what it gave is the result: (B, T, C), or (T, B, C) in there."""
        given, output = self.calls[0]
        pairs = ((given["query"], x), (output, result))
        same = (torch.equal(inner, outer) or torch.equal(inner.transpose(0, 1), outer) for inner, outer in pairs)
        return len(self.calls) == 1 and all(same)
