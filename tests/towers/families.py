"""Tiny random models of the families whose image tower is more, or less, than a plain vision transformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from .case import CASES, Case
from .layouts import AlphaTower, MoETower
from .models import (
    encode_image,
    forward,
    open_clip_joint,
    output_tokens,
    timm_joint,
    timm_patches,
    with_timm_visual,
)

# Other blocks in OpenAI's layout --------------------------------------------------------------------------------------


def layout_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    return output_tokens(model, pixels) if "_sclip_patch" in model.__dict__ else model.tokens(pixels)[:, 1:]


def layout_cases() -> list[Case]:
    layout = dict(embedding=encode_image, patches=layout_patches, to_joint=open_clip_joint)
    return [Case("clip_moe", MoETower, **layout), Case("alpha_clip", AlphaTower, **layout)]


# Convolutional stems --------------------------------------------------------------------------------------------------

TINY_HYBRID = dict(img_size=64, patch_size=1, embed_dim=32, depth=6, num_heads=2, num_classes=24)


def hybrid(backbone: Callable[[], nn.Module], **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.layers import HybridEmbed
        from timm.models.vision_transformer import VisionTransformer

        embed = partial(HybridEmbed, backbone=backbone(), proj=False)
        return VisionTransformer(**{**TINY_HYBRID, "embed_layer": embed, **options})

    return make


def vitamin_stem() -> nn.Module:
    from timm.models.vitamin import MbConvStages, VitCfg

    return MbConvStages(VitCfg(embed_dim=(8, 16, 32), depths=(1, 1, 1), stem_width=8))


def mobileclip_stem() -> nn.Module:
    from timm.models.vision_transformer_hybrid import ConvStem

    return ConvStem(
        channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, in_chans=3, act_layer=nn.GELU
    )


def vitamin(**options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.vitamin import GeGluMlp

        own = dict(mlp_layer=GeGluMlp, mlp_ratio=2.0, class_token=False, global_pool="avg")
        return hybrid(vitamin_stem, **own, **options)()

    return make


def hybrid_cases() -> list[Case]:
    timm = dict(embedding=forward, patches=timm_patches, to_joint=timm_joint, size=(64, 64), patch=16)
    in_open_clip = dict(timm, embedding=encode_image)
    return [
        Case("timm_vitamin", vitamin(), **timm),
        Case("timm_vitamin_xl", vitamin(pos_embed="none"), **timm),
        Case("timm_mobileclip_b", hybrid(mobileclip_stem, no_embed_class=True), **timm),
        Case("timm_hybrid_any_size", hybrid(mobileclip_stem, dynamic_img_size=True), **timm),
        Case("open_clip_timm_vitamin", with_timm_visual(vitamin(num_classes=0)), **in_open_clip),
    ]


for case in (*layout_cases(), *hybrid_cases()):
    CASES[case.name] = case
