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
    TINY_TEXT,
    TINY_VISION,
    encode_image,
    forward,
    open_clip_joint,
    output_tokens,
    siglip_joint,
    timm_joint,
    timm_patches,
    transformers_has,
    vision_model,
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


def naflexvit(**options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

        own = dict(patch_size=8, embed_dim=32, depth=6, num_heads=2, pos_embed_grid_size=(4, 4), act_layer="gelu_tanh")
        return NaFlexVit(NaFlexVitCfg(**{**own, "global_pool": "map", **options}), num_classes=24)

    return make


def naflexvit_cases() -> list[Case]:
    """As timm configures naflexvit_base_patch16_siglip, smaller; and with what other configurations have."""
    if not has_naflexvit():
        return []
    timm = dict(embedding=forward, patches=timm_patches, to_joint=timm_joint)
    return [
        Case("timm_naflexvit", naflexvit(pos_embed_interp_mode="bilinear"), **timm),
        Case(
            "timm_naflexvit_tokens",
            naflexvit(class_token=True, reg_tokens=1, global_pool="token", pre_norm=True),
            **timm,
        ),
        Case("timm_naflexvit_linear", naflexvit(embed_proj_type="linear"), **timm),
    ]


def has_naflexvit() -> bool:
    import timm

    return bool(timm.list_models("naflexvit*siglip"))


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


# Dual encoders of transformers beside CLIP's and SigLIP's -------------------------------------------------------------


def cut(pixels: Tensor, side: int = 8) -> dict[str, Tensor]:
    """What SigLIP 2's own processor makes of pictures of one size: patches (rows, columns, channels), mask, shapes."""
    columns = F.unfold(pixels, side, stride=side).transpose(1, 2)
    shape = torch.tensor([[pixels.shape[2] // side, pixels.shape[3] // side]]).expand(len(pixels), -1)
    return {
        "pixel_values": columns.unflatten(2, (3, side, side)).movedim(2, 4).flatten(2),
        "pixel_attention_mask": torch.ones(columns.shape[:2], dtype=torch.int32),
        "spatial_shapes": shape,
    }


def naflex(class_name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        vision = {key: value for key, value in TINY_VISION.items() if key != "image_size"} | {"num_patches": 16}
        if class_name == "Siglip2VisionModel":
            return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**vision))
        text = {**TINY_TEXT, "hidden_size": 32, "projection_size": 32}
        return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))

    return make


def naflex_embedding(model: nn.Module, pixels: Tensor) -> Tensor:
    output = model.get_image_features(**cut(pixels)) if hasattr(model, "text_model") else model(**cut(pixels))
    return output if isinstance(output, Tensor) else output.pooler_output


def naflex_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    return vision_model(model)(**cut(pixels)).last_hidden_state


def aimv2(**options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return transformers.Aimv2Model(
            transformers.Aimv2Config(
                text_config=TINY_TEXT, vision_config={**TINY_VISION, "use_head": True, **options}, projection_dim=24
            )
        )

    return make


def features_of(model: nn.Module, pixels: Tensor) -> Tensor:
    output = model.get_image_features(pixels)
    return output if isinstance(output, Tensor) else output.pooler_output


def last_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    count = (pixels.shape[-2] // 8) * (pixels.shape[-1] // 8)
    return model.vision_model(pixels).last_hidden_state[:, -count:]


def aimv2_joint(model: nn.Module, patches: Tensor) -> Tensor:
    head = model.vision_model.head  # of a picture of one patch
    return model.visual_projection(torch.stack([head(patches[:, i : i + 1]) for i in range(patches.shape[1])], dim=1))


def tipsv2() -> nn.Module:
    import transformers

    text = {key: value for key, value in TINY_TEXT.items() if key != "max_position_embeddings"}
    vision = {key: value for key, value in TINY_VISION.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
    return transformers.Tipsv2Model(
        transformers.Tipsv2Config(text_config={**text, "hidden_size": 32}, vision_config=vision)
    )


def dual_encoder(vision: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            getattr(transformers, vision + "Config")(**TINY_VISION, **options),
            transformers.BertConfig(**{**TINY_TEXT, "hidden_size": 16}),
            projection_dim=24,
        )
        return transformers.VisionTextDualEncoderModel(config)

    return make


def dual_encoder_joint(model: nn.Module, patches: Tensor) -> Tensor:
    trunk = vision_model(model)
    if hasattr(trunk, "head"):
        return model.visual_projection(siglip_joint(model, patches))
    pooled = [trunk.pooler(patches[:, i : i + 1]) for i in range(patches.shape[1])] if hasattr(trunk, "pooler") else []
    return model.visual_projection(torch.stack(pooled, dim=1) if pooled else patches)


def dual_encoder_features(model: nn.Module, pixels: Tensor) -> Tensor:
    """As `get_image_features`, which takes no pictures of other sizes before transformers 5."""
    with_any_size = {} if "Dinov2" in type(vision_model(model)).__name__ else {"interpolate_pos_encoding": True}
    return model.visual_projection(model.vision_model(pixels, **with_any_size).pooler_output)


def dual_encoder_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    with_any_size = {} if "Dinov2" in type(vision_model(model)).__name__ else {"interpolate_pos_encoding": True}
    count = (pixels.shape[-2] // 8) * (pixels.shape[-1] // 8)
    return vision_model(model)(pixels, **with_any_size).last_hidden_state[:, -count:]


def transformers_family_cases() -> list[Case]:
    sig = dict(embedding=naflex_embedding, patches=naflex_patches, to_joint=siglip_joint)
    aim = dict(embedding=features_of, patches=last_patches, to_joint=aimv2_joint)
    dual = dict(embedding=dual_encoder_features, patches=dual_encoder_patches, to_joint=dual_encoder_joint)
    cases = {
        "Siglip2Model": [
            Case("siglip_2_naflex", naflex("Siglip2Model"), **sig),
            Case("siglip_2_naflex_vision", naflex("Siglip2VisionModel"), **sig),
        ],
        "Aimv2Model": [Case("aimv2", aimv2(), **aim), Case("aimv2_native", aimv2(is_native=True), **aim)],
        "Tipsv2Model": [Case("tipsv2", tipsv2, features_of, last_patches, lambda model, patches: patches)],
        "VisionTextDualEncoderModel": [
            Case("dual_encoder_vit", dual_encoder("ViT"), **dual),
            Case("dual_encoder_dinov2", dual_encoder("Dinov2"), **dual),
            Case("dual_encoder_siglip", dual_encoder("SiglipVision"), **dual),
        ],
    }
    return [case for needed, its in cases.items() if transformers_has(needed) for case in its]


for case in (*layout_cases(), *hybrid_cases(), *resnet_cases(), *naflexvit_cases(), *transformers_family_cases()):
    CASES[case.name] = case
