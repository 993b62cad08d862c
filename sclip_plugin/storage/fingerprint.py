"""What a model is, in a hash: its weights, which adapters are on, its activations; and whether two answer alike.

A hash tells models apart that hold something else. What they only do otherwise (a hook, a forward that was replaced) is
seen in what they answer to a few fixed questions. Answers differ in the last digits between processors, so they are
compared, and never hashed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How far the unit vectors of one model's answers may lie apart, by the type of its weights: TF32 and the like included.
ALIKE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
ALIKE_IN_FLOAT = 2e-3

ACTIVATION = re.compile(r"activation|elu|silu|swish|mish|tanh|sigmoid|softplus", re.IGNORECASE)
ACTIVATION_ATTRIBUTE = re.compile(r"(^|_)act(ivation)?(_fn|_func)?$")
ADAPTER_STATE = (
    "active_adapters", "active_adapter", "disable_adapters", "merged_adapters", "merged", "scaling", "lora_alpha",
)  # fmt: skip


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A hash that changes with any one value of any tensor, with their shapes, types and order.

    >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.tensor([0.0, 1e-30])])
    False
    """
    digest = hashlib.sha256(b"sclip_plugin weights 2")
    read = [(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), bit_sums(tensor.detach())) for tensor in tensors]
    moved: dict[torch.device, Iterator[Tensor]] = {}  # all sums of a device at once: it is waited for once
    for device in {sums.device for _, sums in read}:
        there = [sums for _, sums in read if sums.device == device]
        moved[device] = iter(torch.cat(there).cpu().split([len(sums) for sums in there]))
    for said, sums in read:
        digest.update(said)
        digest.update(next(moved[sums.device]).numpy().tobytes())
    return digest.hexdigest()


def bit_sums(values: Tensor) -> Tensor:
    """The bits of a tensor as words of 64, summed along the rows and the columns of tables of 512 x 256 words."""
    words, rest = _words(values)
    sums = [rest.long()]
    for part in words.split(512 * 256):
        table = F.pad(part, (0, -len(part) % 256)) if len(part) % 256 else part
        sums += [table.view(-1, 256).sum(dim=dim) for dim in (0, 1)]
    return torch.cat(sums)


def _words(values: Tensor) -> tuple[Tensor, Tensor]:
    """The bits of a tensor as whole words of 64, and the bytes that are left."""
    values = values.contiguous()
    if values.storage_offset() * values.itemsize % 8:  # words begin at multiples of their size
        values = values.clone()
    data = values.flatten().view(torch.uint8)
    whole = len(data) // 8 * 8
    return data[:whole].view(torch.int64), data[whole:]


def identity_of(model: nn.Module, but: tuple[str, ...] = ()) -> str:
    """A hash of what a model computes with: all bits of its weights and buffers, its adapters' state, its activations.

    Args:
        model: any module.
        but: what the names of parts that don't count begin with, such as ``"visual."``.

    Example:
        >>> from sclip_plugin.storage.fingerprint import identity_of
        >>> layers = [torch.nn.Sequential(torch.nn.Linear(2, 2), act()) for act in (torch.nn.GELU, torch.nn.ReLU)]
        >>> _ = layers[1].load_state_dict(layers[0].state_dict())
        >>> identity_of(layers[0]) == identity_of(layers[1])
        False
    """
    weights = fingerprint(plain for _, tensor in _state(model, but) for plain in _plain(tensor))
    return hashlib.sha256(json.dumps([weights, list(_behaviour(model, but))]).encode()).hexdigest()


def moment_of(model: nn.Module, but: tuple[str, ...] = ()) -> str:
    """What changes whenever a model was changed in place, within this process: its identity, and what is hooked to it.

    All weights are read each time, at the speed of memory: a write to ``.data`` leaves no other trace.
    """
    hooks = [
        [name, *map(id, (*module._forward_hooks.values(), *module._forward_pre_hooks.values())), id(own)]
        for name, module in model.named_modules()
        for own in [module.__dict__.get("forward")]
        if not name.startswith(but) and (own or module._forward_hooks or module._forward_pre_hooks)
    ]
    return json.dumps([identity_of(model, but), hooks])


def alike(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether two models' answers, unit vectors (n, D), are one model's of weights of that type, on any processor."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours.float().cpu() - theirs.float().cpu()).norm(dim=-1).max() <= ALIKE.get(dtype, ALIKE_IN_FLOAT))


def _state(model: nn.Module, but: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in model.state_dict(keep_vars=True).items() if not name.startswith(but))


def _plain(value: Any) -> Iterator[Tensor]:
    """The tensors that a value of a state dict is made of: quantised ones come as several, or in a tuple."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _plain(part)
    elif isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from _plain(getattr(value, name))
    elif isinstance(value, Tensor) and value.is_quantized:
        yield value.int_repr()
        per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        yield value.q_per_channel_scales() if per_channel else torch.tensor(value.q_scale())
    elif isinstance(value, Tensor):
        yield value.detach()


def _behaviour(model: nn.Module, but: tuple[str, ...]) -> Iterator[list[Any]]:
    """Activations and the state of adapters, in the order of the modules: what weights don't say."""
    for name, module in model.named_modules():
        if name.startswith(but):
            continue
        if ACTIVATION.search(type(module).__name__) and not module._modules and not module._parameters:
            yield ["activation", type(module).__name__, module.extra_repr()]
        for key, value in vars(module).items():
            if ACTIVATION_ATTRIBUTE.search(key) and (callable(value) or isinstance(value, str)):
                yield ["activation", key, value if isinstance(value, str) else _name(value)]
        around = {"base_layer", "modules_to_save"} & module._modules.keys()
        if around or any(key.startswith("lora_") for key in module._parameters):
            yield ["adapter", *(_said(getattr(module, key, None)) for key in ADAPTER_STATE)]


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _said(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, dict):
        return {str(key): _said(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_said(each) for each in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else _name(value)
