"""Is what comes out the model's own? timm's CLIP-like names and transformers' dual encoders, in numbers.

What `python benchmarks/families.py --timm --transformers` prints.

Small depth, random weights, each model at its own size and width. Image: under `vanilla` the embedding of the tokens,
the embedding of the patched model and its features equal the model's own; the worst of the three is told. Words: what
is computed here equals ``get_text_features`` of what the model's processor would make of the prompts. A line for each
name that is not right, and the counts.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TIMM = ("*clip*", "*siglip*", "vit_pe_*", "*mci*", "vitamin*", "aimv2*")
PROMPTS = ["cat", "a photo of a Fire Hydrant, red.", "a long text of words"]
DUAL = {"over CLIP": "CLIPVision", "over ViT": "ViT", "over SigLIP": "SiglipVision", "over DINOv2": "Dinov2"}


def difference(given: Tensor, own: Tensor) -> float:
    return ((given - own).abs().max() / own.abs().max()).item()


def judged(model: nn.Module, own: tuple[Tensor, ...], outputs, pixels: Tensor) -> str:
    """``"right (TOWER)"`` or ``"WRONG (difference)"`` of `outputs(model, pixels)`, embedding first."""
    import sclip_plugin as sp
    from sclip_plugin.dense import dense_tokens
    from sclip_plugin.methods import make_method

    tower = sp.find_tower(model)
    tokens, _ = dense_tokens(tower, pixels, make_method("vanilla", {"position_resize": "size"}), keep_cls=False)
    worst = difference(tower.embedding(tokens), own[0])
    with sp.applied(model, "vanilla", keep_cls=False):
        worst = max(worst, *(difference(given, its) for given, its in zip(outputs(model, pixels), own, strict=True)))
    sides = tuple(side // patch for side, patch in zip(pixels.shape[-2:], tower.patch_size, strict=True))
    features = sp.dense_features(model, pixels, "csa" if tower.attends else "vanilla", allow_remainder=True)
    whole = features.shape[2:] == sides and bool(features.isfinite().all())
    return f"right ({tower.name})" if worst < 1e-5 and whole else f"WRONG ({worst:.1e}, {tuple(features.shape)})"


# timm -----------------------------------------------------------------------------------------------------------------


def small_timm(name: str) -> nn.Module:
    """A model at its own width and size, of two blocks, or of one a stage."""
    import timm
    from timm.models import byobnet

    flat = {key: replace(cfg, blocks=tuple(replace(block, d=1) for block in cfg.blocks))
            for key, cfg in byobnet.model_cfgs.items() if "clip" in key}  # fmt: skip
    with torch.device("meta"):
        whole = timm.create_model(name)
    kind = type(whole).__name__
    options = {"ConvNeXt": {"depths": (1, 1, 1, 1)}, "FastVit": {"layers": (1,) * len(getattr(whole, "stages", ()))}}
    own = {} if kind == "ByobNet" else options.get(kind, {"depth": 2})
    with mock.patch.dict(byobnet.model_cfgs, flat):
        return timm.create_model(name, **own)


def timm_table() -> dict[str, str]:
    import timm
    from towers.case import randomise

    import sclip_plugin as sp
    from sclip_plugin.errors import SclipError

    def outputs(model: nn.Module, pixels: Tensor) -> tuple[Tensor, ...]:
        return model(pixels), model.forward_features(pixels)

    table = {}
    for name in dict.fromkeys(name for pattern in TIMM for name in timm.list_models(pattern)):
        try:
            model = small_timm(name)
            sp.find_tower(model)
            model = randomise(model).eval()
            pixels = torch.randn(1, *model.pretrained_cfg["input_size"])
            table[name] = judged(model, outputs(model, pixels), outputs, pixels)
        except SclipError as error:
            table[name] = f"refused: {str(error).splitlines()[0]}"
    return table


# transformers ---------------------------------------------------------------------------------------------------------


def dual_encoders() -> dict[str, type]:
    """Models with a joint space: those with both ``get_image_features`` and ``get_text_features``."""
    import transformers

    found = {name: getattr(transformers, name, None) for name in dir(transformers) if name.endswith("Model")}
    both = ("get_image_features", "get_text_features")
    return {name: cls for name, cls in found.items()
            if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
            and all(hasattr(cls, method) for method in both)}  # fmt: skip


def small_config(config, vocabulary: int):
    """Two layers and the tokenizer's vocabulary, in a config and all that it holds."""
    for inner in [value for value in vars(config).values() if hasattr(value, "to_dict")]:
        small_config(inner, vocabulary)
    if hasattr(config, "num_hidden_layers") and not hasattr(config, "depths"):
        config.num_hidden_layers = 2
    if hasattr(config, "vocab_size"):
        config.vocab_size = vocabulary
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 3
    return config


def byte_tokenizer():
    """Of transformers: bytes between ``<s>`` and ``</s>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<unk>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    names = dict(zip(("pad_token", "bos_token", "unk_token", "eos_token"), special, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def words_of(model: nn.Module, tokenizer) -> str:
    from sclip_plugin.text.towers import find_text_tower

    tower = find_text_tower(model, tokenizer)
    given = F.normalize(tower.encode(tower.read(PROMPTS).tokens).float(), dim=-1)
    if hasattr(getattr(model, "text_model", None), "head"):  # SigLIP's processors pad to what the model reads
        length = model.config.text_config.max_position_embeddings
        inputs = {
            "input_ids": tokenizer(PROMPTS, padding="max_length", max_length=length, return_tensors="pt").input_ids
        }
    else:
        inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    own = model.get_text_features(**inputs)
    own = F.normalize((own if isinstance(own, Tensor) else own.pooler_output).float(), dim=-1)
    worst = (given * own).sum(dim=-1).min().item()
    return "exact" if worst > 1 - 1e-6 else f"WRONG (cosine {worst:.3f})"


def image_outputs(model: nn.Module, pixels: Tensor) -> tuple[Tensor, ...]:
    from towers.families import cut

    trunk = getattr(model, "vision_model", model)
    inputs = {"pixel_values": pixels}
    if type(model).__name__ == "Siglip2Model":
        inputs = cut(pixels, model.config.vision_config.patch_size)
    features = model.get_image_features(**inputs)
    features = features if isinstance(features, Tensor) else features.pooler_output
    return features, trunk(**inputs).last_hidden_state


def transformers_table() -> tuple[dict[str, str], dict[str, str]]:
    """Image and words of every dual encoder."""
    import transformers
    from towers.case import randomise

    import sclip_plugin as sp
    from sclip_plugin.errors import SclipError

    tokenizer = byte_tokenizer()
    made = {}
    for name, cls in dual_encoders().items():
        if name != "VisionTextDualEncoderModel":
            made[name] = (cls, cls.config_class())
            continue
        for over, vision in DUAL.items():
            parts = getattr(transformers, vision + "Config")(), transformers.BertConfig()
            made[f"{name} {over}"] = (cls, cls.config_class.from_vision_text_configs(*parts))
    image, words = {}, {}
    for name, (cls, config) in made.items():
        config = small_config(config, len(tokenizer))
        try:
            with torch.device("meta"):
                sp.find_tower(cls(config))
            model = randomise(cls(config)).eval()
            side = getattr(config.vision_config, "image_size", 256)
            pixels = torch.randn(1, 3, side, side)
            image[name] = judged(model, image_outputs(model, pixels), image_outputs, pixels)
            words[name] = words_of(model, tokenizer)
        except SclipError as error:
            image.setdefault(name, f"refused: {str(error).splitlines()[0]}")
            words.setdefault(name, "refused with its image tower")
    return image, words
