"""Towers whose layers are no plain layers: adapters, hooks, int8 weights and parametrizations take part.

Rows are towers, columns are what people do to a layer. `vanilla` gives the model's own output, whatever it is; `csa`
gives what it gives of the same model with the change written into its weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import golden
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.towers import find_tower
from sclip_plugin.towers.layers import is_multihead

from .table import CASES, Case

# One for each way in which a block or a pool keeps its projections.
TOWERS = (
    "clip_vision", "siglip_vision", "siglip_2_naflex_vision", "aimv2", "vit", "dinov2_registers", "dinov3",
    "dual_encoder_vit", "timm_registers", "timm_siglip", "timm_eva02_clip", "timm_eva_clip", "timm_perception_encoder",
    "timm_naflexvit", "timm_mobileclip_b", "open_clip_gelu", "open_clip_qk_norm", "open_clip_timm", "openai",
    "alpha_clip", "clip_moe", "resnet_timm",
)  # fmt: skip
every_tower = pytest.mark.parametrize("case", [CASES[name] for name in TOWERS if name in CASES], ids=str)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def called_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The Linears that the model calls, and the attentions of torch, whose output projection it does not call."""
    reads_weights = [m for m in model.modules() if is_multihead(m) or hasattr(m, "c_proj") and hasattr(m, "q_proj")]
    never_called = {id(layer) for module in reads_weights for layer in module.children()}
    kinds = (nn.Linear, nn.MultiheadAttention)
    of_text = ("text", "text_model", *(["transformer"] if hasattr(model, "visual") else []))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and id(module) not in never_called and name.split(".")[0] not in of_text
    }


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in called_layers(model).items() if type(layer) is nn.Linear}


# What is done to layers -----------------------------------------------------------------------------------------------


def with_peft(kind: str) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        peft = pytest.importorskip("peft")
        layers = linears(model) if kind != "lora" or not adapts_multihead() else called_layers(model)
        if kind == "ia3":
            config = peft.IA3Config(target_modules=list(layers), feedforward_modules=[])
        else:
            config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=list(layers), use_dora=kind == "dora")
        adapted = peft.get_peft_model(model, config).eval()
        generator = torch.Generator().manual_seed(3)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "ia3" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            if "lora_A" in name or "lora_B" in name:
                parameter.sub_(1)
        return adapted

    return change


def adapts_multihead() -> bool:
    return hasattr(pytest.importorskip("peft").tuners.lora.layer, "MultiheadAttention")


def peft_merged(adapted: nn.Module) -> nn.Module:
    return copy.deepcopy(adapted).merge_and_unload()


def hooked(model: nn.Module) -> nn.Module:
    for layer in linears(model).values():
        layer.register_forward_hook(lambda module, given, output: 1.3 * output)
    return model


def unhooked(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in linears(model).values():
        layer._forward_hooks.clear()
        for parameter in layer.parameters():
            parameter.mul_(1.3)
    return model


class Shrunk(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.7 * weight + 0.01


def parametrized(model: nn.Module) -> nn.Module:
    for layer in called_layers(model).values():
        parametrize.register_parametrization(
            layer, "weight" if type(layer) is nn.Linear else "in_proj_weight", Shrunk()
        )
    return model


def weight_normed(model: nn.Module) -> nn.Module:
    for layer in called_layers(model).values():
        name = "weight" if type(layer) is nn.Linear else "in_proj_weight"
        parametrizations.weight_norm(layer, name)
        getattr(layer.parametrizations, name).original0.mul_(1.3)
    return model


def unparametrized(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    return model


class WithPath(nn.Linear):
    """As loralib's layers: a Linear whose forward adds a path."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        generator = torch.Generator().manual_seed(layer.out_features)
        self.down = nn.Parameter(0.3 * torch.randn(2, layer.in_features, generator=generator))
        self.up = nn.Parameter(0.3 * torch.randn(layer.out_features, 2, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


def replaced(model: nn.Module, layers: dict, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for name, layer in layers.items():
        holder, _, last = name.rpartition(".")
        setattr(model.get_submodule(holder), last, make(layer))
    return model


def with_path(model: nn.Module) -> nn.Module:
    return replaced(model, linears(model), WithPath)


def path_merged(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    return replaced(model, {n: m for n, m in model.named_modules() if isinstance(m, WithPath)}, path_in_weight)


def path_in_weight(layer: WithPath) -> nn.Linear:
    return plain_linear(layer.weight + layer.up @ layer.down, layer.bias)


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    plain = nn.Linear(*reversed(weight.shape), bias is not None)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    return plain


def dynamic_int8(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def dequantized(model: nn.Module) -> nn.Module:
    quantized = {name: m for name, m in model.named_modules() if type(m).__name__ == "Linear" and callable(m.weight)}
    weights = {name: plain_linear(m.weight().dequantize(), m.bias()) for name, m in quantized.items()}
    return (
        replaced(copy.deepcopy(model), quantized, lambda layer: weights[names[id(layer)]])
        if (names := {id(m): name for name, m in quantized.items()})
        else model
    )


def torchao_int8(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own extensions that this machine has not
        quantization = pytest.importorskip("torchao.quantization")
        if not hasattr(quantization, "Int8WeightOnlyConfig"):
            pytest.skip("an older torchao")
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def torchao_dequantized(model: nn.Module) -> nn.Module:
    subclassed = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and hasattr(m.weight, "dequantize")
                  and type(m.weight) is not nn.Parameter}  # fmt: skip
    return replaced(copy.deepcopy(model), subclassed, lambda m: plain_linear(m.weight.dequantize(), m.bias))


@dataclass(frozen=True)
class Change:
    make: Callable[[nn.Module], nn.Module]
    merged: Callable[[nn.Module], nn.Module]
    exact: float = 1e-5
    """How far csa may be from that of the merged model; int8 layers round what enters them, too."""


CHANGES = {
    "LoRA": Change(with_peft("lora"), peft_merged, 1e-4),
    "DoRA": Change(with_peft("dora"), peft_merged, 1e-4),
    "IA3": Change(with_peft("ia3"), peft_merged, 1e-4),
    "a path of loralib's": Change(with_path, path_merged, 1e-4),
    "hook": Change(hooked, unhooked, 1e-4),
    "dynamic int8": Change(dynamic_int8, dequantized, 0.3),
    "torchao int8": Change(torchao_int8, torchao_dequantized, 0.02),
    "parametrization": Change(parametrized, unparametrized),
    "weight norm": Change(weight_normed, unparametrized, 1e-4),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def difference(ours: Tensor, theirs: Tensor) -> float:
    return golden.relative_difference(ours.float(), theirs.float())


def inner(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@every_change
@every_tower
def test_vanilla_is_the_changed_model_s_own_output(case: Case, change: Change):
    plain, pixels = case.outputs(case.model(), case.pixels()), case.pixels()
    model = change.make(case.model())
    try:
        own = case.outputs(inner(model), pixels)
    except (TypeError, AttributeError, IndexError):
        pytest.skip("the model itself reads the weight of a layer that has none, and fails")
    sp.apply(model, "vanilla", keep_cls=False)
    ours = case.outputs(inner(model), pixels)
    assert difference(ours[0], own[0]) < 1e-5 and difference(ours[1], own[1]) < 1e-5
    if called_layers(case.shared_model()):
        assert difference(own[1], plain[1]) > 1e-4  # the change does something


@every_change
@every_tower
def test_csa_is_that_of_the_merged_model(case: Case, change: Change):
    pixels, model = case.pixels(size=case.other_size), change.make(case.model())
    if case.name == "timm_eva_clip" and change.make not in (parametrized, weight_normed):
        pytest.skip("the model itself reads the weight of qkv and calls no layer: a merged one is another model")
    ours = sp.dense_features(model, pixels)
    assert difference(ours, sp.dense_features(change.merged(model), pixels)) < change.exact


# Layers beside the projections ----------------------------------------------------------------------------------------

PATCH_EMBEDDINGS = {
    "clip_vision": "patch_embedding", "siglip_vision": "patch_embedding", "siglip_2_naflex_vision": "patch_embedding",
    "aimv2": "patch_embed", "vit": "projection", "dinov3": "patch_embeddings", "timm_registers": "patch_embed.proj",
    "timm_eva02_clip": "patch_embed.proj", "open_clip_gelu": "visual.conv1", "openai": "visual.conv1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "layer"), [(CASES[name], layer) for name, layer in PATCH_EMBEDDINGS.items() if name in CASES], ids=str
)
def test_an_adapter_on_the_patch_embedding(case: Case, layer: str):
    peft = pytest.importorskip("peft")
    pixels = case.pixels()
    adapted = peft.get_peft_model(case.model(), peft.LoraConfig(r=2, lora_alpha=8, target_modules=[layer])).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert difference(sp.dense_features(adapted, pixels), sp.dense_features(case.shared_model(), pixels)) > 1e-3
    assert difference(sp.dense_features(adapted, pixels), sp.dense_features(peft_merged(adapted), pixels)) < 1e-4
    own = case.outputs(inner(adapted), pixels)
    sp.apply(adapted, "vanilla", keep_cls=False)
    ours = case.outputs(inner(adapted), pixels)
    assert difference(ours[0], own[0]) < 1e-5 and difference(ours[1], own[1]) < 1e-5


def test_a_table_of_positions_with_an_adapter():
    peft, case = pytest.importorskip("peft"), CASES["clip_vision"]
    adapted = peft.get_peft_model(case.model(), peft.LoraConfig(r=2, target_modules=["position_embedding"])).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.fill_(0.5)
    pixels = case.pixels()
    own = case.outputs(inner(adapted), pixels)
    sp.apply(adapted, "vanilla", keep_cls=False)
    assert difference(case.outputs(inner(adapted), pixels)[1], own[1]) < 1e-5


def test_a_pool_that_reads_weights_ignores_adapters_as_the_model_does():
    peft, case = pytest.importorskip("peft"), CASES["resnet_open_clip"]
    layers = ["q_proj", "k_proj", "v_proj", "attnpool.c_proj"]
    adapted = peft.get_peft_model(case.model(), peft.LoraConfig(r=2, target_modules=layers)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.fill_(0.5)
    pixels = case.pixels()
    own = case.embedding(inner(adapted), pixels)
    assert difference(own, case.embedding(case.shared_model(), pixels)) == 0
    sp.apply(adapted, "vanilla", keep_cls=False)
    assert difference(case.embedding(inner(adapted), pixels), own) < 1e-5


@pytest.mark.parametrize("name", ["timm_registers", "open_clip_gelu", "clip_vision"])
def test_apply_reaches_the_model_in_peft_s_wrapper(name: str):
    peft, case = pytest.importorskip("peft"), CASES[name]
    if name == "open_clip_gelu" and not adapts_multihead():
        pytest.skip("this peft adapts no MultiheadAttention")
    target = {"timm_registers": "qkv", "open_clip_gelu": "attn", "clip_vision": "q_proj"}[name]
    model = case.model()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[target])).eval()
    before = case.patches(model, case.pixels())
    assert sp.apply(adapted) is adapted
    assert "_sclip_patch" in find_tower(model).trunk.__dict__
    assert difference(case.patches(model, case.pixels()), before) > 1e-3
    assert torch.equal(case.patches(sp.restore(adapted).get_base_model(), case.pixels()), before)


def test_gradients_reach_an_adapter_around_torch_s_attention():
    peft, case = pytest.importorskip("peft"), CASES["open_clip_gelu"]
    if not adapts_multihead():
        pytest.skip("this peft adapts no MultiheadAttention")
    adapted = peft.get_peft_model(
        case.model(), peft.LoraConfig(r=2, target_modules=["visual.transformer.resblocks.5.attn"])
    )
    with torch.enable_grad():
        sp.dense_features(adapted, case.pixels()).square().sum().backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert gradients and all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


# Hooks on what a method does not call ---------------------------------------------------------------------------------


def last_attention(model: nn.Module) -> nn.Module:
    block = find_tower(model).blocks[-1]
    return getattr(block, "attn", getattr(block, "self_attn", getattr(block, "attention", block)))


def rolled(module: nn.Module, given: tuple, output):
    return (output[0].roll(1, -1), *output[1:]) if isinstance(output, tuple) else output.roll(1, -1)


def roll_what_enters(module: nn.Module, args: tuple, kwargs: dict):
    named = {"hidden_states", "query", "x"}
    return tuple(a.roll(1, -1) if isinstance(a, Tensor) else a for a in args), {
        name: a.roll(1, -1) if name in named else a for name, a in kwargs.items()
    }


@pytest.mark.parametrize("on", ["attention", "block", "what enters the attention"])
@every_tower
def test_a_hook_that_changes_what_a_method_does_not_call_is_refused(case: Case, on: str):
    model, pixels = case.model(), case.pixels()
    if on == "block":
        find_tower(model).blocks[-1].register_forward_hook(rolled)
    elif on == "attention":
        last_attention(model).register_forward_hook(rolled)
    else:
        last_attention(model).register_forward_pre_hook(roll_what_enters, with_kwargs=True)
    for method in ("csa", "vanilla"):
        with pytest.raises(UnsupportedModelError, match="hook"):
            sp.dense_features(model, pixels, method)


@every_tower
def test_a_hook_that_only_looks_changes_nothing(case: Case):
    model, pixels, seen = case.model(), case.pixels(), []
    for module in find_tower(model).trunk.modules():
        if module is not last_attention(model) or not case.one_block:
            module.register_forward_hook(lambda module, given, output: seen.append(module))
    assert difference(sp.dense_features(model, pixels), sp.dense_features(case.shared_model(), pixels)) < 1e-6
    assert seen
