"""Off its native grid a tower gives what its own model gives there, by the model's own rule for positions."""

from __future__ import annotations

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.towers.base import resize_positions, resized_to_symbols

from .models import timm_vit
from .table import CASES, Case

# What each model does itself, of `Method.position_resize`; None where the tower knows it, whatever a method asks for.
SIZE = (
    "clip", "clip_vision", "clip_trunk", "clip_with_projection", "chinese_clip", "altclip", "metaclip_2", "clipseg",
    "siglip", "siglip_vision", "vit", "vit_mae", "dinov2", "dual_encoder_vit", "dual_encoder_dinov2",
    "dual_encoder_siglip",
)  # fmt: skip
ANTIALIASED = ("dinov2_registers", "timm_hybrid_any_size", "resnet_timm")
OF_THE_TOWER = (
    "tipsv2", "dinov3", "aimv2_native", "siglip_2_naflex", "siglip_2_naflex_vision", "timm_naflexvit",
    "timm_naflexvit_tokens", "timm_naflexvit_linear", "timm_vitamin_xl",
)  # fmt: skip
RULES = {
    **dict.fromkeys(SIZE, "size"), **dict.fromkeys(ANTIALIASED, "size_antialias"), **dict.fromkeys(OF_THE_TOWER)
}  # fmt: skip


def _own(case: Case, pixels: torch.Tensor) -> torch.Tensor | None:
    """The model's own patches; None where its forward takes its native size alone."""
    try:
        return case.patches(case.shared_model(), pixels)
    except (AssertionError, RuntimeError):
        return None


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 2), (-1, 2), (2, -2)], ids="{0[0]:+},{0[1]:+}".format)
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_another_grid(case: Case, grid: tuple[int, int]):
    size = [side + more * case.patch for side, more in zip(case.size, grid, strict=True)]
    pixels = case.pixels(1, (size[0], size[1]))
    own = _own(case, pixels)
    if own is None:
        assert case.name not in RULES
        pytest.skip("the model itself takes its native size alone")
    rule = RULES[case.name]
    for asked in ("scale_factor", "size") if rule is None else (rule,):
        with sp.applied(case.shared_model(), "vanilla", keep_cls=False, position_resize=asked) as model:
            assert golden.relative_difference(case.patches(model, pixels), own) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 48), (24, 48), (48, 24)], ids=str)
def test_timm_s_own_rule_of_a_model_for_all_sizes(size: tuple[int, int]):
    torch.manual_seed(0)
    model, pixels = timm_vit(dynamic_img_size=True)().eval(), torch.randn(1, 3, *size)
    model.pos_embed.normal_()
    own = model.forward_features(pixels)
    with sp.applied(model, "vanilla", keep_cls=False, position_resize="size_antialias"):
        assert golden.relative_difference(model.forward_features(pixels), own) < 1e-5


@pytest.mark.parametrize("grid", [(6, 3), (2, 9), (4, 4)], ids=str)
def test_bilinear_with_antialiasing_at_sizes_left_open(grid: tuple[int, int]):
    positions = torch.randn(17, 8, generator=torch.Generator().manual_seed(1))
    wanted = resize_positions(positions, (4, 4), grid, "bilinear_antialias")[1:]
    assert (
        golden.relative_difference(resized_to_symbols(positions[1:], (4, 4), grid, "bilinear_antialias"), wanted) < 1e-5
    )
