"""The models that every behaviour is tested on: the golden checkpoint in each framework, and tiny random ones.

The families whose towers differ from a plain vision transformer stand in `families`.
"""

from __future__ import annotations

from collections.abc import Callable

import golden
import outside_models
import torch
from torch import Tensor, nn

from sclip_plugin import list_methods, register_tower
from sclip_plugin.methods import PictureMethod, make_method

from .case import CASES, Case
from .toy import ToyTower, ToyViT

register_tower("toy")(ToyTower)


def _outside_model() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    vit = ViTModel(ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                             image_size=32, patch_size=8))  # fmt: skip
    return vit.eval().requires_grad_(False)


OPTIONS: dict[str, dict] = {
    "resclip": {"sfr": None},  # sfr needs texts, and has its own tests
    "proxyclip": {"guide": _outside_model()},
    "trident": {"guide": _outside_model(), "sam": outside_models.transformers_model("sam")},
}
# Those that can be applied in place, and trident beside them. Corrclip and textregion want regions, and dinoiser has
# weights for one width: they have tests of their own.
MADE = {name: make_method(name, OPTIONS.get(name, {})) for name in list_methods()}
METHODS = {name: made for name, made in MADE.items() if not isinstance(made, PictureMethod)}
FUNCTIONAL = {**METHODS, "trident": MADE["trident"]}


# transformers ---------------------------------------------------------------------------------------------------------

TINY_VISION = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2, image_size=32, patch_size=8
)
TINY_TEXT = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=99,
    max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
CLIP_FAMILIES = {
    "chinese_clip": ("ChineseCLIPModel", "ChineseCLIPConfig"),
    "altclip": ("AltCLIPModel", "AltCLIPConfig"),
    "metaclip_2": ("MetaClip2Model", "MetaClip2Config"),
    "clipseg": ("CLIPSegModel", "CLIPSegConfig"),
}


def transformers_has(class_name: str) -> bool:
    import transformers

    return hasattr(transformers, class_name)


def transformers_family(model_name: str, config_name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        text = {**TINY_TEXT, **({"project_dim": 24} if config_name == "AltCLIPConfig" else {})}
        text.update({"type_vocab_size": 2} if config_name in ("AltCLIPConfig", "ChineseCLIPConfig") else {})
        config_type = getattr(transformers, config_name)
        return getattr(transformers, model_name)(
            config_type(text_config=text, vision_config=TINY_VISION, projection_dim=24)
        )

    return make


def vision_tower(class_name: str, config_name: str = "CLIPVisionConfig", **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, config_name)(**TINY_VISION, **options)
        return getattr(transformers, class_name)(config)

    return make


def bare_clip_trunk() -> nn.Module:
    model = vision_tower("CLIPVisionModel")()
    return getattr(model, "vision_model", model)


def siglip(class_name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        if class_name == "SiglipVisionModel":
            return vision_tower(class_name, "SiglipVisionConfig")()
        text = {**TINY_TEXT, "hidden_size": 32, "projection_size": 32}
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=TINY_VISION))

    return make


def vision_model(model: nn.Module) -> nn.Module:
    model = getattr(model, "vision_model", model)
    return getattr(model, "vision_model", model)


def image_features(model: nn.Module, pixels: Tensor) -> Tensor:
    output = model.get_image_features(pixels, interpolate_pos_encoding=True)
    return output if isinstance(output, Tensor) else output.pooler_output


def pooler_output(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixels, interpolate_pos_encoding=True).pooler_output


def image_embeds(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixels, interpolate_pos_encoding=True).image_embeds


def hidden_patches(prefix: int) -> Callable[[nn.Module, Tensor], Tensor]:
    def patches(model: nn.Module, pixels: Tensor) -> Tensor:
        return vision_model(model)(pixels, interpolate_pos_encoding=True).last_hidden_state[:, prefix:]

    return patches


def clip_joint(model: nn.Module, patches: Tensor) -> Tensor:
    tokens = vision_model(model).post_layernorm(patches)
    return model.visual_projection(tokens) if hasattr(model, "visual_projection") else tokens


def siglip_joint(model: nn.Module, patches: Tensor) -> Tensor:
    head = vision_model(model).head  # of a picture of one patch
    return torch.stack([head(patches[:, i : i + 1]) for i in range(patches.shape[1])], dim=1)


def transformers_cases() -> list[Case]:
    clip = dict(patches=hidden_patches(1), to_joint=clip_joint)
    cases = [
        Case("clip", lambda: golden.model("transformers"), image_features, **clip, **GOLDEN),
        Case("clip_vision", vision_tower("CLIPVisionModel"), pooler_output, **clip),
        Case("clip_trunk", bare_clip_trunk, pooler_output, **clip),
        Case(
            "clip_with_projection",
            vision_tower("CLIPVisionModelWithProjection", projection_dim=24), image_embeds, **clip,
        ),
        *(
            Case(name, transformers_family(*family), image_features, **clip)
            for name, family in CLIP_FAMILIES.items()
            if transformers_has(family[0])
        ),
    ]  # fmt: skip
    sig = dict(patches=hidden_patches(0), to_joint=siglip_joint)
    cases += [
        Case("siglip", siglip("SiglipModel"), image_features, **sig),
        Case("siglip_vision", siglip("SiglipVisionModel"), pooler_output, **sig),
    ]
    return cases


PLAIN_VITS = {
    "vit": ("ViTModel", "ViTConfig", {}),
    "vit_mae": ("ViTMAEModel", "ViTMAEConfig", {"mask_ratio": 0.0}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"layerscale_value": 0.5}),
    "dinov2_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"num_register_tokens": 3}),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 2}),
}


def plain_vit(class_name: str, config_name: str, options: dict) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, class_name)(getattr(transformers, config_name)(**{**TINY_VISION, **options}))

    return make


def vit_output(model: nn.Module, pixels: Tensor):
    family = type(model).__name__
    options: dict = {"interpolate_pos_encoding": True} if family.startswith("ViT") else {}
    if family == "ViTMAEModel":  # no patch is masked; the noise orders them
        options["noise"] = torch.arange(pixels[0, 0].numel() // 64).expand(len(pixels), -1)
    return model(pixels, **options)


def vit_embedding(model: nn.Module, pixels: Tensor) -> Tensor:
    output = vit_output(model, pixels)
    return output.pooler_output if "pooler_output" in output else output.last_hidden_state[:, 0]


def vit_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    return vit_output(model, pixels).last_hidden_state[:, -(pixels.shape[-2] // 8) * (pixels.shape[-1] // 8) :]


def plain_vit_cases() -> list[Case]:
    return [
        Case(name, plain_vit(*family), vit_embedding, vit_patches, lambda model, patches: patches)
        for name, family in PLAIN_VITS.items()
        if transformers_has(family[0])
    ]


# timm -----------------------------------------------------------------------------------------------------------------

TINY_TIMM = dict(img_size=32, patch_size=8, embed_dim=32, depth=6, num_heads=2)
TINY_EVA = dict(TINY_TIMM, use_rot_pos_emb=True, ref_feat_shape=(3, 3), global_pool="token", num_classes=24)
EVAS = {
    # As timm configures eva02_base_patch16_clip_224 and its kind, smaller.
    "eva02_clip": dict(TINY_EVA, qkv_fused=False, mlp_ratio=2, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True),
    "eva_clip": dict(TINY_EVA, use_rot_pos_emb=False, ref_feat_shape=None, init_values=0.1),
    "eva02_enormous_clip": dict(TINY_EVA, use_rot_pos_emb=False, ref_feat_shape=None, use_post_norm=True),
    "perception_encoder": dict(
        TINY_EVA, global_pool="map", attn_type="rope", use_pre_transformer_norm=True, rope_grid_offset=1.0,
        rope_grid_indexing="xy", attn_pool_num_heads=2, attn_pool_mlp_ratio=2.0,
    ),
}  # fmt: skip


def timm_vit(**options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        defaults = {**TINY_TIMM, "num_classes": 24, "global_pool": "token", "pre_norm": True}
        return VisionTransformer(**{**defaults, **options})

    return make


def timm_eva(name: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.eva import Eva

        return Eva(**{**EVAS[name], **options})

    return make


def eva_exists(name: str) -> bool:
    import inspect

    from timm.models.eva import Eva

    return set(EVAS[name]) <= set(inspect.signature(Eva.__init__).parameters)


def forward(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixels)


def timm_trunk(model: nn.Module) -> nn.Module:
    visual = getattr(model, "visual", model)
    return getattr(visual, "trunk", visual)


def timm_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    trunk = timm_trunk(model)
    return trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]


def timm_joint(model: nn.Module, patches: Tensor) -> Tensor:
    trunk = timm_trunk(model)

    def embedding(patch: Tensor) -> Tensor:
        if getattr(trunk, "attn_pool", None) is not None:
            return trunk.forward_head(patch)  # of a picture of one patch
        return trunk.head(trunk.fc_norm(patch[:, 0]))

    joint = torch.stack([embedding(patches[:, i : i + 1]) for i in range(patches.shape[1])], dim=1)
    return model.visual.head(joint) if hasattr(model, "visual") else joint


def timm_cases() -> list[Case]:
    timm = dict(embedding=forward, patches=timm_patches, to_joint=timm_joint)
    return [
        Case("timm", lambda: golden.model("timm"), **timm, **GOLDEN),
        Case("timm_no_head", timm_vit(num_classes=0), **timm),
        Case("timm_registers", timm_vit(reg_tokens=2, no_embed_class=True, init_values=0.1, qk_norm=True), **timm),
        Case("timm_average", timm_vit(global_pool="avg"), **timm),
        Case("timm_siglip", timm_vit(class_token=False, global_pool="map", pre_norm=False, num_classes=0), **timm),
        *(Case("timm_" + name, timm_eva(name), **timm) for name in EVAS if eva_exists(name)),
    ]


# open_clip and OpenAI's clip ------------------------------------------------------------------------------------------

TINY_OPEN_CLIP = dict(image_size=32, layers=6, width=32, head_width=16, patch_size=8)
TINY_OPEN_CLIP_TEXT = dict(context_length=16, vocab_size=99, width=16, heads=2, layers=2)


def open_clip_model(class_name: str = "CLIP", **vision) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import open_clip.model

        return getattr(open_clip.model, class_name)(24, {**TINY_OPEN_CLIP, **vision}, TINY_OPEN_CLIP_TEXT)

    return make


def with_timm_visual(trunk: Callable[[], nn.Module], **options) -> Callable[[], nn.Module]:
    """open_clip's CustomTextCLIP over a timm trunk; a trunk of full size first, as open_clip can only name those."""

    def make() -> nn.Module:
        import open_clip.model

        vision = dict(
            timm_model_name="vit_tiny_patch16_224", timm_model_pretrained=False, timm_pool="", timm_proj="linear",
            image_size=224, **options,
        )  # fmt: skip
        clip = open_clip.model.CustomTextCLIP(24, vision, TINY_OPEN_CLIP_TEXT)
        clip.visual.trunk = trunk()
        clip.visual.head = nn.Sequential()
        clip.visual.head.add_module("proj", nn.Linear(clip.visual.trunk.num_features, 24, bias=False))
        return clip

    return make


def bare_visual() -> nn.Module:
    return open_clip_model(output_tokens=True)().visual


def encode_image(model: nn.Module, pixels: Tensor) -> Tensor:
    output = model.encode_image(pixels) if hasattr(model, "encode_image") else model(pixels)
    return output[0] if isinstance(output, tuple) else output


def output_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    visual = getattr(model, "visual", model)
    before = getattr(visual, "output_tokens", None)
    visual.output_tokens = True
    try:
        return visual(pixels)[1]
    finally:
        if before is None:
            del visual.output_tokens
        else:
            visual.output_tokens = before


def openai_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    """OpenAI's trunk returns no tokens: its blocks' output is caught. Patched, it returns them as open_clip's does."""
    if "_sclip_patch" in model.visual.__dict__:
        return output_tokens(model, pixels)
    seen: list[Tensor] = []
    handle = model.visual.transformer.register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        model.visual(pixels)
    finally:
        handle.remove()
    return model.visual.ln_post(seen[0].transpose(0, 1))[:, 1:]


def open_clip_joint(model: nn.Module, patches: Tensor) -> Tensor:
    visual = getattr(model, "visual", model)
    patches = visual.ln_post(patches) if getattr(visual, "final_ln_after_pool", False) else patches
    return patches @ visual.proj


def open_clip_knows(name: str) -> bool:
    import inspect

    from open_clip.transformer import VisionTransformer

    return name in inspect.signature(VisionTransformer.__init__).parameters


def open_clip_cases() -> list[Case]:
    own = dict(embedding=encode_image, patches=output_tokens, to_joint=open_clip_joint)
    timm = dict(embedding=encode_image, patches=timm_patches, to_joint=timm_joint)
    cases = [
        Case("open_clip", lambda: golden.model("open_clip"), **own, **GOLDEN),
        Case("open_clip_custom_text", lambda: golden.model("open_clip_custom_text"), **own, **GOLDEN),
        Case("open_clip_gelu", open_clip_model(), **own),
        Case("open_clip_layer_scale", open_clip_model(ls_init_value=0.1), **own),
        Case("open_clip_visual", bare_visual, **own),
        Case("open_clip_timm", with_timm_visual(timm_vit(num_classes=0)), **timm),
        Case("open_clip_timm_eva02", with_timm_visual(timm_eva("eva02_clip", num_classes=0)), **timm),
    ]
    if open_clip_knows("pool_type"):
        clipa = dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True, pos_embed_type="sin_cos_2d")
        cases.append(Case("open_clip_clipa", open_clip_model(**clipa), **own))
        cases.append(Case("open_clip_average", open_clip_model(pool_type="avg"), **own))
    if open_clip_knows("qk_norm"):
        norms = dict(qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True)
        cases.append(Case("open_clip_qk_norm", open_clip_model(**norms), **own))
    openai = dict(embedding=encode_image, patches=openai_tokens, to_joint=open_clip_joint)
    return [*cases, Case("openai", lambda: golden.model("openai"), **openai, **GOLDEN)]


GOLDEN = dict(size=(112, 112), patch=16, golden=True)
TOY = Case("toy", ToyViT, forward, lambda model, pixels: model.tokens(pixels), lambda model, patches: patches)
for case in (*transformers_cases(), *plain_vit_cases(), *timm_cases(), *open_clip_cases(), TOY):
    CASES[case.name] = case
