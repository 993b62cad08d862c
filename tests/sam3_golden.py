"""The tiny SAM 3 of tests/golden, its processor, and folders of it."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from golden import FOLDER, arrays
from safetensors.torch import load_file

NAMES = ["sky", "wall", "tree", "cat", "dog", "person", "person in shirt", "potted plant"]
CLASSES = [["sky", "wall", "tree"], "cat", "dog", ["person", "person in shirt"], "potted plant"]
SIZE = {"height": 112, "width": 112}


def transformers():
    """transformers, with SAM 3; releases without it skip."""
    import transformers

    if not hasattr(transformers, "Sam3Model"):
        pytest.skip(f"transformers {transformers.__version__} has no SAM 3")
    return transformers


class Tokenizer:
    """The golden ids of the golden words; of others one id a word."""

    def __init__(self, ids, mask):
        self.known = {name: row[valid.bool()].tolist() for name, row, valid in zip(NAMES, ids, mask, strict=True)}
        self.known[""] = self.known["empty"] = [49406, 49407]

    def __call__(self, name, padding=None, max_length=None, truncation=False, return_tensors=None):
        ids = self.known.get(name) or [49406, *(1000 + sum(map(ord, word)) for word in name.split()), 49407]
        if padding is None:
            return {"input_ids": ids}
        ids = ids if len(ids) <= max_length else [*ids[: max_length - 1], 49407]
        left = max_length - len(ids)
        mask = [1] * len(ids) + [0] * left
        return {"input_ids": torch.tensor([ids + [49407] * left]), "attention_mask": torch.tensor([mask])}


@cache
def processor():
    golden = arrays("SAM3")
    images = transformers().Sam3ImageProcessor(size=SIZE)
    return SimpleNamespace(image_processor=images, tokenizer=Tokenizer(golden["words.ids"], golden["words.mask"]))


def tiny(seed=None):
    """The golden model; with a seed one of the same size with other weights."""
    return _tiny(seed)


@cache
def _tiny(seed):
    config = transformers().Sam3Config(**json.loads((FOLDER / "tiny_sam3_config.json").read_text()))
    torch.manual_seed(0 if seed is None else seed)
    model = transformers().Sam3Model(config).eval()
    if seed is None:
        state = load_file(FOLDER / "tiny_sam3.safetensors")
        key = next(key for key in model.state_dict() if "token_embedding.weight" in key)
        embedding = torch.zeros_like(model.state_dict()[key])
        embedding[state.pop("token_embedding.rows").long()] = state.pop("token_embedding.values").float()
        model.load_state_dict({**state, key: embedding})
    else:  # random heads say nothing clearly: queries on both sides of the threshold need larger weights
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.ndim > 1 and "embed" not in name:
                    value.mul_(3)
    return model


def saved(folder, seed=3):
    """A model folder as the hub has it: weights, image processor, and the demo's tokenizer."""
    import sclip_plugin as sp

    tiny(seed).save_pretrained(folder)
    tokenizer = transformers().AutoTokenizer.from_pretrained(sp.demo_model())
    transformers().Sam3Processor(transformers().Sam3ImageProcessor(size=SIZE), tokenizer).save_pretrained(folder)
    return str(folder)
