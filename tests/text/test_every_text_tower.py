"""Words are embedded as the model itself embeds them, whatever its text tower is built like."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F

from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.text.bank import TextBank
from sclip_plugin.text.towers import CausalTextTower, OwnTextTower, find_text_tower

from .open_clip_models import build, one_of_each

NAMES = ("cat", "A Fire Hydrant", "sports-ball, red", "word " * 20 + "end")
TEMPLATES = ("a photo of a {}.", "{}")


def own_bank(model, tokenizer) -> torch.Tensor:
    """The model's own encode_text, fed by its own tokenizer, prompt by prompt."""
    rows = []
    for name in NAMES:
        ids = tokenizer([template.replace("{}", name) for template in TEMPLATES])
        with torch.no_grad():
            output = model.encode_text(ids)
        rows.append(F.normalize(F.normalize(output, dim=-1).mean(dim=0), dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("name", one_of_each())
@pytest.mark.filterwarnings("ignore:the text tower reads")
def test_open_clip(name):
    model, tokenizer = build(name)
    tower = find_text_tower(model, tokenizer)
    given = TextBank(tower, cache_dir=False).embed(NAMES, TEMPLATES)
    cosine = (given * own_bank(model, tokenizer)).sum(dim=-1)
    assert (cosine > 1 - 1e-6).all(), cosine


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ViT-B-32", CausalTextTower),
        ("RN50", CausalTextTower),
        ("ViT-B-32-worldwide" if "ViT-B-32-worldwide" in one_of_each() else "ViT-B-16", CausalTextTower),
        ("ViT-B-16-SigLIP", OwnTextTower),
        ("MobileCLIP-S1", OwnTextTower),
        ("coca_ViT-B-32", OwnTextTower),
    ],
)
def test_the_fast_way_is_taken_where_it_is_right(name, kind):
    model, tokenizer = build(name)
    tower = find_text_tower(model, tokenizer)
    assert type(getattr(tower, "chosen", tower)) is kind


class SecondTable(open_clip.CLIP):
    """Long-CLIP's: a second table of positions from the 21st token on."""

    def encode_text(self, ids):
        position = torch.cat([self.positional_embedding[:20], self.positional_embedding_res[20:]])
        x = self.token_embedding(ids) + position
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask))
        return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ self.text_projection


class MeanPooled(open_clip.CLIP):
    """A model that is like CLIP in all that structure shows, and computes something else."""

    def encode_text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        return self.ln_final(self.transformer(x, attn_mask=self.attn_mask)).mean(dim=1) @ self.text_projection


@pytest.mark.parametrize("kind", [SecondTable, MeanPooled])
def test_what_only_looks_like_clip_goes_its_own_way(kind):
    plain, tokenizer = build("ViT-B-32")
    model = copy.deepcopy(plain)
    model.__class__ = kind
    if kind is SecondTable:
        model.positional_embedding_res = torch.nn.Parameter(torch.randn_like(plain.positional_embedding) * 0.1)
    tower = find_text_tower(model, tokenizer)
    given = TextBank(tower, cache_dir=False).embed(NAMES, TEMPLATES)
    assert ((given * own_bank(model, tokenizer)).sum(dim=-1) > 1 - 1e-6).all()
    assert isinstance(getattr(tower, "chosen", tower), OwnTextTower)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "pure_fp16", "pure_bf16"])
def test_half_precision(precision):
    model = open_clip.create_model("ViT-B-32", precision=precision).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    given = TextBank(find_text_tower(model, tokenizer), cache_dir=False).embed(("cat", "dog"), TEMPLATES)
    assert given.dtype == torch.float32 and torch.isfinite(given).all()
    with torch.no_grad():
        own = model.encode_text(tokenizer(["cat"])).float()
    alone = TextBank(find_text_tower(model, tokenizer), cache_dir=False).embed(("cat",), ("{}",))
    assert F.cosine_similarity(alone, own).item() > 0.999


def test_openais_half_precision():
    """What `clip.load` gives on CUDA: matrices in float16, embeddings and norms in float32."""
    import clip
    from clip.model import CLIP, convert_weights

    torch.manual_seed(0)
    model = CLIP(64, 32, 1, 64, 16, 77, 49408, 64, 2, 2).eval()
    convert_weights(model)
    given = TextBank(find_text_tower(model, clip.tokenize), cache_dir=False).embed(("cat",), ("{}",))
    with torch.no_grad():
        own = model.encode_text(clip.tokenize(["cat"])).float()
    assert F.cosine_similarity(given, own).item() > 0.999


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32", "MobileCLIP-B"])
def test_labels_that_are_cut_are_named(name):
    model, tokenizer = build(name)
    bank = TextBank(find_text_tower(model, tokenizer), cache_dir=False)
    with pytest.warns(UserWarning, match="labels that are longer were cut: 'very.*end'$"):
        bank.embed(("cat", "very " * 90 + "end"), ("{}",))


def test_labels_that_are_cut_are_named_with_openais_tokenizer():
    import clip
    from clip.model import CLIP

    model = CLIP(64, 32, 1, 64, 16, 77, 49408, 64, 2, 2).eval()
    bank = TextBank(find_text_tower(model, clip.tokenize), cache_dir=False)
    with pytest.warns(UserWarning, match="were cut: 'very"):
        bank.embed(("cat", "very " * 90 + "end"), ("{}",))


def test_labels_that_become_the_same_tokens_are_named():
    model, tokenizer = build("ViT-B-32")
    with pytest.warns(UserWarning, match="'Cat' and 'cat'"):
        TextBank(find_text_tower(model, tokenizer), cache_dir=False).embed(("Cat", "dog", "cat"), TEMPLATES)


def test_templates_are_text_not_format_strings():
    model, tokenizer = build("ViT-B-32")
    bank = TextBank(find_text_tower(model, tokenizer), cache_dir=False)
    given = bank.embed(("cat",), ("{style} {}", "{{}}"))
    with torch.no_grad():
        own = F.normalize(model.encode_text(tokenizer(["{style} cat", "{cat}"])), dim=-1).mean(dim=0)
    assert F.cosine_similarity(given[0], own, dim=0).item() > 1 - 1e-6


def test_a_model_without_words():
    with pytest.raises(UnsupportedModelError, match="no text tower"):
        find_text_tower(torch.nn.Linear(2, 2), None)
