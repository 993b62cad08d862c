"""open_clip's models by name with their text tower as configured, but small, and a small image tower.

What cannot be had without a hub (tokenizers, configs of transformers) has a stand-in of the same kind.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from unittest import mock

import open_clip
import torch
from open_clip import hf_model
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

SMALL_VISION = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
NAMES = open_clip.list_models()


def config(name: str) -> dict:
    return json.loads(json.dumps(open_clip.get_model_config(name)))


def structure(name: str) -> str:
    """What of a config decides how its text tower computes and how its prompts are cut into tokens."""
    text = dict(config(name)["text_cfg"])
    for size in ("width", "heads", "layers", "vocab_size", "output_dim"):
        text.pop(size, None)
    kind = "coca" if "multimodal_cfg" in config(name) else ""
    return kind + json.dumps(text, sort_keys=True)


def one_of_each() -> list[str]:
    """A name for each structure of text towers."""
    found: dict[str, str] = {}
    for name in NAMES:
        found.setdefault(structure(name), name)
    return list(found.values())


@functools.cache
def build(name: str):
    """A model of random weights and its tokenizer."""
    cfg = config(name)
    cfg.pop("custom_text", None)
    text = cfg["text_cfg"]
    is_hf, is_coca = "hf_model_name" in text, "multimodal_cfg" in cfg
    cfg["vision_cfg"] = dict(SMALL_VISION)
    tokenizer = _tokenizer(text)
    if is_hf:
        text["hf_model_pretrained"] = False
    else:
        text |= {"layers": 2, "width": 64, "heads": 2, "vocab_size": min(text.get("vocab_size", 49408), 49408)}
    if is_coca:
        cfg["vision_cfg"].update({"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True})
        cfg["multimodal_cfg"]["layers"] = 1
    custom = open_clip.get_model_config(name).get("custom_text") or is_hf
    cls = open_clip.CoCa if is_coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    torch.manual_seed(0)
    with mock.patch.object(hf_model, "AutoConfig", _Configs):
        return cls(**cfg).eval(), tokenizer


class _Configs:
    """AutoConfig, of small models of the same kinds."""

    @staticmethod
    def from_pretrained(name: str):
        import transformers

        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        if "xlm" in name.lower():
            return transformers.XLMRobertaConfig(vocab_size=300, max_position_embeddings=90, **small)
        if "roberta" in name.lower():
            return transformers.RobertaConfig(vocab_size=300, max_position_embeddings=90, **small)
        if "mt5" in name.lower() or "t5" in name.lower():
            return transformers.MT5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
        if "nllb" in name.lower():
            return transformers.M2M100Config(
                vocab_size=300, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
                decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, max_position_embeddings=90,
            )  # fmt: skip
        return transformers.BertConfig(vocab_size=300, max_position_embeddings=90, **small)


def _tokenizer(text: dict):
    context_length = text.get("context_length", 77)
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    if "hf_tokenizer_name" not in text:
        return SimpleTokenizer(context_length=context_length, **kwargs)
    kwargs.pop("language", None)
    return HFTokenizer(byte_tokenizer(text["hf_tokenizer_name"]), context_length=context_length, **kwargs)


@functools.cache
def byte_tokenizer(name: str) -> str:
    """A folder with a tokenizer of transformers whose tokens are bytes, its special tokens of a known one's kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    is_t5 = any(word in name.lower() for word in ("t5", "siglip", "gemma"))
    special = ["<pad>", "</s>", "<unk>"] if is_t5 else ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[BOS]", "[EOS]"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=special[2 if is_t5 else 3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if is_t5:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        names |= {"bos_token": "[BOS]", "eos_token": "[EOS]"}
    folder = Path(tempfile.mkdtemp(prefix="byte-tokenizer-"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)
