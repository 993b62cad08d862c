"""The golden checkpoint in each framework, and what the published code returned on it (see golden/README.md)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "golden"
FRAMEWORKS = ("transformers", "open_clip", "open_clip_custom_text", "timm", "openai")
SIZES = ("112x112", "112x160", "144x112")


@cache
def arrays(name: str) -> dict[str, torch.Tensor]:
    """All arrays of one golden file, ``arrays("SCLIP")["csa.112x112.tokens"]``."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def prepared(pixels: torch.Tensor, size: tuple[int, int] | None = None, picture: Image.Image | None = None):
    """Pixels (3, H, W) that a segmenter takes as they are; the label map has ``size``, or that of the pixels."""
    import sclip_plugin as sp

    return sp.Prepared(picture, pixels, (pixels.shape[-2], pixels.shape[-1]) if size is None else size)


@cache
def checkpoint() -> dict[str, torch.Tensor]:
    """The state dict in OpenAI's layout, fp32; rows of the token embedding that no test uses are zero."""
    state = load_file(FOLDER / "tiny_clip_openai.safetensors")
    embedding = torch.zeros(49408, 64)
    embedding[state.pop("token_embedding.rows").long()] = state.pop("token_embedding.values").float()
    return {**state, "token_embedding.weight": embedding}


def relative_difference(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """Largest difference relative to the golden array's largest magnitude."""
    assert ours.shape == golden.shape, (ours.shape, golden.shape)
    return ((ours - golden).abs().max() / golden.abs().max()).item()


def assert_equal(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the largest magnitude: processors differ in the last digits of each sum."""
    difference = relative_difference(ours, expected)
    assert difference <= tolerance, f"{difference:.2e} of the largest magnitude apart, {tolerance:.0e} allowed"


def every_fourth(x: torch.Tensor) -> torch.Tensor:
    return x[..., ::4, ::4]


@cache
def _built(framework: str) -> torch.nn.Module:
    return _BUILDERS[framework]().eval().requires_grad_(False)


def model(framework: str = "transformers") -> torch.nn.Module:
    """The golden checkpoint as a fresh model of a framework, fp32, eval."""
    import copy

    return copy.deepcopy(_built(framework))


def _transformers():
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        projection_dim=64,
        vision_config=dict(
            hidden_size=128, intermediate_size=512, num_hidden_layers=12, num_attention_heads=2, image_size=112,
            patch_size=16, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=64,
        ),
        text_config=dict(
            hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, vocab_size=49408,
            max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=64,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        ),
    )  # fmt: skip
    clip = CLIPModel(config)
    report = clip.load_state_dict(_to_transformers(checkpoint()), strict=False)
    # Position ids, which some releases keep in the state dict, are no weights.
    assert not report.unexpected_keys and all(key.endswith("position_ids") for key in report.missing_keys), report
    return clip


def _to_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of OpenAI's layout to those of transformers, as its own conversion script maps them."""
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for ours, theirs in (
        ("text_model.final_layer_norm", "ln_final"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
    ):
        for part in ("weight", "bias"):
            out[f"{ours}.{part}"] = state[f"{theirs}.{part}"]
    renamed = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for prefix, side in (("visual.transformer.resblocks.", "vision_model"), ("transformer.resblocks.", "text_model")):
        for key, value in state.items():
            if not key.startswith(prefix):
                continue
            index, rest = key[len(prefix) :].split(".", 1)
            layer = f"{side}.encoder.layers.{index}"
            if rest.startswith("attn.in_proj_"):
                part = rest.removeprefix("attn.in_proj_")
                for name, third in zip("qkv", value.chunk(3), strict=True):
                    out[f"{layer}.self_attn.{name}_proj.{part}"] = third.clone()
            elif rest.startswith("attn.out_proj."):
                out[f"{layer}.self_attn.{rest.removeprefix('attn.')}"] = value
            else:
                stem, part = rest.rsplit(".", 1)
                out[f"{layer}.{renamed[stem]}.{part}"] = value
    return out


_VISION = dict(image_size=112, layers=12, width=128, head_width=64, patch_size=16)
_TEXT = dict(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)


def _open_clip():
    from open_clip.model import CLIP

    clip = CLIP(64, _VISION, _TEXT, quick_gelu=True)
    clip.load_state_dict(checkpoint())
    return clip


def _open_clip_custom_text():
    from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict

    clip = CustomTextCLIP(64, _VISION, _TEXT, quick_gelu=True)
    clip.load_state_dict(convert_to_custom_text_state_dict(dict(checkpoint())))
    return clip


def _timm():
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    trunk = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224",
        pretrained=False,
        img_size=112,
        embed_dim=128,
        num_heads=2,
        num_classes=64,
    )
    trunk.load_state_dict(checkpoint_filter_fn(dict(checkpoint()), trunk))
    return trunk


def _openai():
    from clip.model import CLIP

    clip = CLIP(64, 112, 12, 128, 16, 77, 49408, 64, 1, 2)
    clip.load_state_dict(checkpoint())
    return clip


_BUILDERS = {
    "transformers": _transformers,
    "open_clip": _open_clip,
    "open_clip_custom_text": _open_clip_custom_text,
    "timm": _timm,
    "openai": _openai,
}


@cache
def tokenizer():
    """OpenAI's tokenizer as transformers', made from the vocabulary that ships inside open_clip."""
    import gzip
    import json
    import tempfile

    import open_clip
    from transformers import CLIPTokenizer

    simple = open_clip.tokenizer.SimpleTokenizer()
    merges = gzip.open(open_clip.tokenizer.default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps(simple.encoder | _special_tokens(simple.encoder)))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def _special_tokens(encoder: dict[str, int]) -> dict[str, int]:
    names = ("<|startoftext|>", "<|endoftext|>")
    ids = [encoder.get(own) for own in ("<start_of_text>", "<end_of_text>")]
    for own in ("<start_of_text>", "<end_of_text>"):
        encoder.pop(own, None)
    return dict(zip(names, ids, strict=True))


def save_folder(folder: Path) -> Path:
    """The golden checkpoint as a model folder of transformers, with tokenizer and preprocessor_config.json."""
    import json

    model("transformers").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    config = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config))
    return Path(folder)


def tokenizer_of(framework: str):
    """The tokenizer that users of a framework have in hand."""
    if framework == "transformers":
        return tokenizer()
    if framework == "openai":
        import clip

        return clip.tokenize
    import open_clip

    return open_clip.get_tokenizer("ViT-B-32")
