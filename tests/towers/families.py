"""Tiny random models of the families whose image tower is more, or less, than a plain vision transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
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


# ResNets under an attention pool --------------------------------------------------------------------------------------

TINY_RESNET_TEXT = dict(context_length=16, vocab_size=99, width=16, heads=2, layers=2)


def open_clip_resnet() -> nn.Module:
    from open_clip.model import CLIP

    return CLIP(24, dict(image_size=96, layers=(1, 1, 1, 1), width=4, patch_size=None, head_width=32), TINY_RESNET_TEXT)


def openai_resnet() -> nn.Module:
    from clip.model import CLIP

    return CLIP(24, 96, (1, 1, 1, 1), 4, None, 16, 99, 16, 2, 2)


def timm_resnet() -> nn.Module:
    from timm.models.byobnet import ByoBlockCfg, ByobNet, model_cfgs

    stages = tuple(ByoBlockCfg("bottle", d=1, c=c, s=s, br=0.25) for c, s in ((32, 1), (64, 2), (96, 2), (128, 2)))
    small = replace(model_cfgs["resnet50_clip"], blocks=stages, stem_chs=(8, 8, 16))
    return ByobNet(small, num_classes=24, img_size=96)


def all_queries(model: nn.Module, pixels: Tensor) -> Tensor:
    """The pool with every place as a query: the trunk returns the mean's alone. Patched, it returns them all."""
    if "_sclip_patch" in model.visual.__dict__:
        return output_tokens(model, pixels)
    seen: list[Tensor] = []
    handle = model.visual.layer4.register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        model.visual(pixels)
    finally:
        handle.remove()
    pool = model.visual.attnpool
    places = seen[0].flatten(2).permute(2, 0, 1)
    x = torch.cat([places.mean(dim=0, keepdim=True), places])
    x = x + pool.positional_embedding[:, None].to(x.dtype)
    weights = [getattr(pool, name).weight for name in ("q_proj", "k_proj", "v_proj")]
    bias = torch.cat([getattr(pool, name).bias for name in ("q_proj", "k_proj", "v_proj")])
    tokens, _ = F.multi_head_attention_forward(
        x, x, x, x.shape[-1], pool.num_heads, None, bias, None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias,
        need_weights=False, use_separate_proj_weight=True, q_proj_weight=weights[0], k_proj_weight=weights[1],
        v_proj_weight=weights[2],
    )  # fmt: skip
    return tokens.transpose(0, 1)[:, 1:]


def unpooled(model: nn.Module, pixels: Tensor) -> Tensor:
    """timm's own way to have the pool's tokens."""
    model.head.pool_type = ""
    try:
        return model(pixels).flatten(2).mT
    finally:
        model.head.pool_type = "token"


def resnet_cases() -> list[Case]:
    own = dict(size=(96, 96), patch=32, to_joint=lambda model, patches: patches, one_block=True)
    return [
        Case("resnet_open_clip", open_clip_resnet, encode_image, all_queries, **own),
        Case("resnet_openai", openai_resnet, encode_image, all_queries, **own),
        Case("resnet_timm", timm_resnet, forward, unpooled, **own),
    ]


for case in (*layout_cases(), *hybrid_cases(), *resnet_cases()):
    CASES[case.name] = case
