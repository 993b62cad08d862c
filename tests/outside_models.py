"""The tiny outside checkpoints of tests/golden in transformers and timm; golden/README.md says what they are."""

from __future__ import annotations

import functools
import json
import warnings
from functools import cache

import golden
import torch
from safetensors.torch import load_file
from torch import nn

CONFIGS = json.loads((golden.FOLDER / "tiny_vfm_configs.json").read_text())


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(golden.FOLDER / f"tiny_{name}.safetensors")


@cache
def transformers_model(name: str) -> nn.Module:
    import transformers

    config = dict(CONFIGS[name])
    cls = getattr(transformers, config.pop("architectures")[0])
    config.pop("model_type", None)
    model = cls(cls.config_class(**config)).eval().requires_grad_(False)
    renamed = _sam_names(weights(name)) if name == "sam" else _vit_names(weights(name))
    own = model.state_dict()
    renamed = {key if key in own else _newer(key): value for key, value in renamed.items()}
    renamed = {key if key in own else key.replace("encoder.layer.", "layers."): v for key, v in renamed.items()}
    report = model.load_state_dict(renamed, strict=False)
    assert not report.unexpected_keys, report.unexpected_keys
    assert all(key.startswith("pooler") for key in report.missing_keys), report.missing_keys
    return model


def _newer(key: str) -> str:
    """A key of the hub's ViT checkpoints in transformers 5."""
    for old, new in (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        key = key.replace(old, new)
    return key


def _vit_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    dinov2 = "register_tokens" in state
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1",
    }  # fmt: skip
    if not dinov2:
        names |= {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense"}
        names |= {"mlp.fc2": "output.dense"}
    out = {}
    for key, value in state.items():
        if "attn.qkv" in key:
            stem, part = key.replace("blocks.", "encoder.layer.").split("attn.qkv.")
            for which, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"{stem}attention.attention.{which}.{part}"] = third
            continue
        if key in ("cls_token", "pos_embed", "register_tokens", "mask_token"):
            out["embeddings." + key.replace("pos_embed", "position_embeddings")] = value
            continue
        new = key
        for old, ours in names.items():
            new = new.replace(old, ours)
        out["layernorm." + new.removeprefix("norm.") if new.startswith("norm.") else new] = value
    return out


def _sam_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for key, value in state.items():
        new = key.replace("image_encoder", "vision_encoder").replace("blocks.", "layers.")
        new = new.replace("patch_embed.proj", "patch_embed.projection")
        for i, part in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
            new = new.replace(f"neck.{i}.", f"neck.{part}.")
        for i, part in ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3")):
            new = new.replace(f"mask_downscaling.{i}.", f"mask_embed.{part}.")
        for i, part in ((0, "upscale_conv1"), (1, "upscale_layer_norm"), (3, "upscale_conv2")):
            new = new.replace(f"output_upscaling.{i}.", f"{part}.")
        if "prediction_head.layers" in new or "hypernetworks_mlps" in new:
            head, _, tail = new.rpartition("layers.")
            index, part = tail.split(".")
            new = head + {"0": "proj_in", "1": "layers.0", "2": "proj_out"}[index] + "." + part
        elif ".norm" in new:
            new = new.replace(".norm", ".layer_norm")
        new = new.replace("point_embeddings", "point_embed").replace("layer_norm_final", "layer_norm_final")
        if "positional_encoding_gaussian_matrix" in new:
            out["prompt_encoder.shared_embedding.positional_embedding"] = value
            out["shared_image_embedding.positional_embedding"] = value
            continue
        out[new] = value
    return out


@cache
def timm_dino(name: str) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    patch = CONFIGS[name]["patch_size"]
    model = VisionTransformer(112, patch, embed_dim=48, depth=4, num_heads=3, num_classes=0, dynamic_img_size=True)
    model.load_state_dict(weights(name))
    return model.eval().requires_grad_(False)


@cache
def segment_anything() -> nn.Module:
    """SAM in its authors' own layout, of the code that MobileSAM ships with; the checkpoint as it is."""
    with warnings.catch_warnings():  # it imports timm by old names, and puts models of its own into timm's registry
        warnings.simplefilter("ignore")
        from mobile_sam.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    vision, norm = CONFIGS["sam"]["vision_config"], functools.partial(nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        embed_dim=vision["hidden_size"], depth=4, num_heads=2, out_chans=32, norm_layer=norm, use_rel_pos=True,
        window_size=14, global_attn_indexes=(1, 3),
    )  # fmt: skip
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4)
    prompts = PromptEncoder(
        embed_dim=32, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
    )
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32)
    model = Sam(encoder, prompts, decoder)
    model.load_state_dict(weights("sam"))
    return model.eval().requires_grad_(False)
