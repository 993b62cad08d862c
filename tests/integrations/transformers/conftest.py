"""A tiny random CLIP in a folder, as ``save_pretrained`` leaves it, and pictures to look at."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

LABELS = ["cat", "remote control", "sofa"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No text bank of the user's is read or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save_byte_tokenizer(folder):
    """The files of a CLIPTokenizer that knows single bytes; returns the number of its tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = sorted(ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), start, end]
    special = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    files = {
        "vocab.json": json.dumps({token: index for index, token in enumerate(tokens)}),
        "merges.txt": "#version: 0.2\n",
        "special_tokens_map.json": json.dumps(special),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 128, **special}),
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return len(tokens)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint folder: CLIPModel of 4 + 2 layers at 64 pixels, tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    path = tmp_path_factory.mktemp("tiny-clip")
    tokens = save_byte_tokenizer(path)
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            projection_dim=32,
            vision_config=dict(
                hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=2, image_size=64,
                patch_size=16, projection_dim=32,
            ),
            text_config=dict(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=tokens,
                max_position_embeddings=128, projection_dim=32, bos_token_id=tokens - 2, eos_token_id=tokens - 1,
                pad_token_id=tokens - 1,
            ),
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that patches differ, and several labels are found
    model.save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Paths of four pictures of different sizes."""
    path = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(90, 120), (120, 90), (64, 200), (90, 120)]):
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(str(path / f"{index}.png"))
        picture.save(paths[-1])
    return paths
