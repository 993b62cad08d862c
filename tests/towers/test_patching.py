"""Patching beside what others do to a model: accelerate's hooks, FSDP2, parametrizations, tracing, export."""

from __future__ import annotations

import warnings
from functools import partial

import golden
import pytest
import torch
from torch import nn

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.towers.base import resize_positions, resized_to_symbols

from .table import CASES, Case

pytestmark = pytest.mark.usefixtures("without_gradients")

CASE = CASES["clip_vision"]
OLD_EXPORTER = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


def trunk_of(model: nn.Module) -> nn.Module:
    return getattr(model, "vision_model", model)


def hook(module: nn.Module) -> None:
    """What accelerate's add_hook_to_module does, as far as it matters here."""
    module._hf_hook = object()
    module._old_forward = module.forward
    module.forward = partial(lambda module, *args, **kwargs: module._old_forward(*args, **kwargs), module)


def unhook(module: nn.Module) -> None:
    """Its remove_hook_from_module."""
    del module._hf_hook
    module.forward = module.__dict__.pop("_old_forward")


def test_a_forward_on_the_instance_is_refused_not_ignored():
    model, pixels = CASE.model(), CASE.pixels()
    before = CASE.outputs(model, pixels)
    hook(trunk_of(model))
    with pytest.raises(UnsupportedModelError, match=r"accelerate's hooks .*no effect.*remove_hook_from_submodules"):
        sp.apply(model)
    unhook(trunk_of(model))
    sp.apply(model)
    assert golden.relative_difference(CASE.patches(model, pixels), before[1]) > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(sp.restore(model), pixels), before, strict=True))


def test_weights_that_are_offloaded_are_refused_in_a_sentence():
    model = CASE.model().to("meta")
    with pytest.raises(UnsupportedModelError, match="the weights of CLIPVision.* are offloaded"):
        sp.dense_features(model, CASE.pixels())
    for module in trunk_of(model).modules():
        module._hf_hook = object()
    with pytest.raises(UnsupportedModelError, match="runs under accelerate's hooks"):
        sp.apply(model)


@pytest.mark.parametrize("remove_first", [True, False])
def test_hooks_after_apply_see_the_dense_tokens_and_restore_takes_them_away(remove_first: bool):
    model, pixels = CASE.model(), CASE.pixels()
    before, dense = CASE.outputs(model, pixels), CASE.outputs(sp.apply(model), pixels)
    hook(trunk_of(model))
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(model, pixels), dense, strict=True))
    for undo in (unhook, sp.restore) if remove_first else (sp.restore, unhook):
        undo(trunk_of(model))
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(model, pixels), before, strict=True))


def test_restore_leaves_a_class_that_others_put_on_top():
    from torch.nn.utils import parametrize

    model, pixels = CASE.model(), CASE.pixels()
    before = CASE.outputs(model, pixels)
    trunk = trunk_of(sp.apply(model))
    base = type(trunk)._sclip_base
    trunk.register_parameter("mine", nn.Parameter(torch.ones(1), requires_grad=False))
    parametrize.register_parametrization(trunk, "mine", nn.Flatten(0))
    sp.restore(model)
    assert isinstance(trunk, base) and type(trunk).__name__ == "Parametrized" + base.__name__
    assert not hasattr(trunk, "_sclip_patch") and torch.equal(trunk.mine, torch.ones(1))
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(model, pixels), before, strict=True))


@pytest.fixture
def one_process(tmp_path):
    """torch.distributed with this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_fsdp2_works_where_the_last_block_is_whole_and_is_refused_elsewhere(one_process):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("not in this release")
    pixels = CASE.pixels()
    before, dense = CASE.outputs(CASE.model(), pixels), CASE.outputs(sp.apply(CASE.model()), pixels)

    def sharded(model: nn.Module, count: int) -> nn.Module:
        for block in trunk_of(model).encoder.layers[:count]:
            fsdp.fully_shard(block, mesh=one_process)
        return model

    model = sp.apply(sharded(CASE.model(), 5))
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(model, pixels), dense, strict=True))
    model = sharded(sp.apply(CASE.model()), 6)
    fsdp.fully_shard(trunk_of(model), mesh=one_process)
    with pytest.raises(UnsupportedModelError, match="last block of .* is sharded"):
        CASE.outputs(model, pixels)
    sp.restore(model)
    assert isinstance(trunk_of(model), fsdp.FSDPModule)
    assert all(torch.equal(a, b) for a, b in zip(CASE.outputs(model, pixels), before, strict=True))


def test_a_hook_that_only_looks_runs_on_the_last_block_as_on_earlier_ones():
    """As docs/models.md says: the ordinary block is computed for it once more."""
    model, fired = CASE.model(), []
    blocks = trunk_of(model).encoder.layers
    for block in (blocks[-2], blocks[-1]):
        block.register_forward_hook(lambda block, given, output: fired.append(block))
    CASE.patches(model, CASE.pixels())
    assert fired == [blocks[-2], blocks[-1]]
    CASE.patches(sp.apply(model, keep_cls=False), CASE.pixels())
    assert fired[2:] == [blocks[-2], blocks[-1]]
    CASE.patches(sp.restore(model), CASE.pixels())
    assert fired[4:] == [blocks[-2], blocks[-1]]


# Tracing and export ---------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A model whose only output is its patch tokens, for what takes modules with tensors in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels).last_hidden_state


@pytest.mark.parametrize("method", ["csa", "naclip", "gem"])
def test_a_patched_model_can_be_traced(method: str):
    model = Tokens(sp.apply(CASE.model(), method))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, as in any trace
        traced = torch.jit.trace(model, CASE.pixels(), check_trace=False)
    assert torch.equal(traced(CASE.pixels()), model(CASE.pixels()))


@pytest.mark.parametrize("method", ["csa", "vanilla", "clearclip", "naclip", "gem"])
def test_a_patched_model_can_be_exported_with_height_and_width_left_open(method: str):
    if OLD_EXPORTER:
        pytest.skip("older exporters cannot say that a size is a multiple of the patch in every case")
    model = Tokens(sp.apply(CASE.model(), method))
    pixels = CASE.pixels(size=(40, 48))
    exported = torch.export.export(model, (pixels,), dynamic_shapes=open_sizes(8), strict=False).module()
    for size in ((32, 32), (24, 56)):  # the native one, and another
        pixels = CASE.pixels(3, size)
        assert golden.relative_difference(exported(pixels), model(pixels)) < 1e-5


EXPORTED = (
    "siglip", "aimv2", "vit", "dinov2", "dinov3", "timm", "timm_siglip", "timm_vitamin", "timm_eva02_clip",
    "timm_perception_encoder", "open_clip", "openai", "resnet_open_clip",
)  # fmt: skip


class Outputs(nn.Module):
    """The embedding and the patches of a case's model."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.model = case, sp.apply(case.model())

    def forward(self, pixels):
        return self.case.outputs(self.model, pixels)


def open_sizes(patch: int) -> dict:
    from torch.export import Dim

    sides = [patch * Dim(name, min=2, max=64) for name in ("rows", "columns")]
    return {"pixels": {0: Dim("batch", min=1, max=64), 2: sides[0], 3: sides[1]}}


@pytest.mark.parametrize("case", [CASES[name] for name in EXPORTED if name in CASES], ids=str)
def test_every_tower_can_be_exported_with_height_and_width_left_open(case: Case):
    if OLD_EXPORTER:
        pytest.skip("older exporters cannot say that a size is a multiple of the patch in every case")
    model, patch = Outputs(case), case.patch
    pixels = case.pixels(size=(5 * patch, 6 * patch))
    exported = torch.export.export(model, (pixels,), dynamic_shapes=open_sizes(patch), strict=False).module()
    for size in (case.size, (3 * patch, 7 * patch)):  # the native one, and another
        pixels = case.pixels(3, size)
        for given, expected in zip(exported(pixels), model(pixels), strict=True):
            assert golden.relative_difference(given, expected) < 1e-5


@pytest.mark.parametrize("name", ["clip_vision", "open_clip", "timm"])
def test_onnx_runs_a_patched_model_at_any_size(name: str, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, case = Outputs(CASES[name]).eval(), CASES[name]
    pixels, shapes = case.pixels(size=(5 * case.patch, 6 * case.patch)), open_sizes(case.patch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its future
        program = torch.onnx.export(
            model, (pixels,), dynamo=True, dynamic_shapes=shapes, input_names=["pixels"], verbose=False
        )
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for size in (case.size, (3 * case.patch, 7 * case.patch)):
        pixels = case.pixels(3, size)
        for given, expected in zip(session.run(None, {"pixels": pixels.numpy()}), model(pixels), strict=True):
            assert golden.relative_difference(torch.from_numpy(given), expected) < 1e-5


@pytest.mark.parametrize("how", ["scale_factor", "size", "size_antialias", "bilinear"])
@pytest.mark.parametrize("grid", [(3, 7), (9, 2), (4, 6), (4, 5)])
def test_positions_for_open_sizes_are_those_for_numbers(how: str, grid: tuple[int, int]):
    positions = torch.randn(2 + 4 * 5, 6, generator=torch.Generator().manual_seed(1))
    expected = resize_positions(positions, (4, 5), grid, how)[2:]
    assert golden.relative_difference(resized_to_symbols(positions[2:], (4, 5), grid, how), expected) < 2e-6
