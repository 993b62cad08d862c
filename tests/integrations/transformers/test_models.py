"""Every CLIP-shaped family of transformers goes through the pipeline, and its words mean what its own model says."""

from dataclasses import dataclass, field

import golden
import numpy as np
import pytest
import torch
import transformers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, pipeline

from sclip_plugin.errors import UnsupportedModelError

TASK = "zero-shot-segmentation"
LABELS = ["cat", "remote control", "sofa"]
TEMPLATE = "a photo of the {}."

WORDS = ["<pad>", "<s>", "<unk>", "</s>", ".", "a", "photo", "of", "the", "cat", "remote", "control", "sofa", "very"]
VISION = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16
)
TEXT = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(WORDS),
    max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=3,
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Fields:
        prefix: of transformers' names of the model and its config.
        text, options: what its text config and its config hold beside what all do.
        prompt: how its tokenizer frames a prompt.
        pads: whether it was trained on prompts padded to one length, without a mask.
        limit: the most tokens that its text tower reads.
    """

    prefix: str
    text: dict = field(default_factory=dict)
    options: dict = field(default_factory=lambda: {"projection_dim": 24})
    prompt: str = "<s> $A </s>"
    pads: bool = False
    limit: int = 32

    def exists(self):
        return hasattr(transformers, self.prefix + "Model")

    def save(self, folder):
        config = getattr(transformers, self.prefix + "Config")(
            vision_config=VISION, text_config={**TEXT, **self.text}, **self.options
        )
        model = getattr(transformers, self.prefix + "Model")(config)
        with torch.no_grad():
            for parameter in model.parameters():  # so that words and patches differ
                if parameter.dim() > 1:
                    parameter.copy_(torch.randn(parameter.shape) * (2 / parameter[0].numel()) ** 0.5)
        model.save_pretrained(folder)
        tokenizer = tokenizer_of_words(self.prompt)
        tokenizer.save_pretrained(folder)
        CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
        return model.eval(), tokenizer


FAMILIES = {
    "CLIP": Family("CLIP"),
    "Chinese CLIP": Family("ChineseCLIP", {"type_vocab_size": 2}),
    # XLM-R counts positions from behind the padding index.
    "AltCLIP": Family("AltCLIP", {"type_vocab_size": 2, "project_dim": 24}, limit=31),
    "MetaCLIP 2": Family("MetaClip2"),
    "CLIPSeg's CLIP": Family("CLIPSeg"),
    "AIMv2": Family("Aimv2"),
    "TIPSv2": Family("Tipsv2", {"hidden_size": 32}, {}),
    "SigLIP, SigLIP 2": Family("Siglip", {"hidden_size": 32, "projection_size": 32}, {}, prompt="$A </s>", pads=True),
}


def tokenizer_of_words(prompt):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [(word, ids[word]) for word in ("<s>", "</s>")]
    inner.post_processor = processors.TemplateProcessing(single=prompt, special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def loaded(request, tmp_path_factory):
    """(family, its pipeline from a folder, the model as transformers runs it, its tokenizer)."""
    family = FAMILIES[request.param]
    if not family.exists():
        pytest.skip(f"this release of transformers has no {family.prefix}Model")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("family")
    model, tokenizer = family.save(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        pipe = pipeline(TASK, model=str(folder), hypothesis_template=TEMPLATE)
    return family, pipe, model, tokenizer


def test_segments(loaded, pictures):
    family, pipe, *_ = loaded
    assert type(pipe.model).__name__ == family.prefix + "Model"
    for found, path in zip(pipe(pictures, candidate_labels=LABELS, batch_size=3), pictures, strict=True):
        alone = pipe(path, candidate_labels=LABELS)
        assert {e["label"] for e in found} == {e["label"] for e in alone} <= set(LABELS)
        assert (sum(np.asarray(e["mask"]) // 255 for e in found) == 1).all()
    assert len({e["label"] for path in pictures for e in pipe(path, candidate_labels=LABELS)}) > 1


@pytest.mark.parametrize("method", ["csa", "maskclip", "clearclip", "naclip"])
def test_methods(loaded, pictures, method):
    _, pipe, *_ = loaded
    assert pipe(pictures[0], candidate_labels=LABELS, method=method)


def test_words_mean_what_the_model_says(loaded):
    family, pipe, model, tokenizer = loaded
    prompts = [TEMPLATE.format(label) for label in LABELS]
    if family.pads:
        inputs = tokenizer(prompts, padding="max_length", max_length=family.limit, return_tensors="pt")
        inputs = {"input_ids": inputs["input_ids"]}
    else:
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        features = model.get_text_features(**inputs)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    _, bank = pipe.segmenter.text_embeddings(LABELS)
    expected = torch.nn.functional.normalize(features, dim=-1)
    golden.assert_equal(bank, expected)
    assert (bank @ bank.T).fill_diagonal_(0).max() < 0.999, "different words differ"


def test_long_labels_are_cut(loaded, pictures):
    family, pipe, *_ = loaded
    long = "very " * 600 + "sofa"
    with pytest.warns(UserWarning, match=f"the text tower reads {family.limit} tokens"):
        assert pipe(pictures[0], candidate_labels=["cat", long], output="semantic")["labels"] == ["cat", long]


def test_projection_is_part_of_the_text_banks_key(loaded):
    """Two checkpoints that differ in nothing else must not share a cached bank."""
    _, pipe, *_ = loaded
    if not hasattr(pipe.model, "text_projection"):
        pytest.skip("no projection beside the text model")
    tower = pipe.segmenter.text_bank.tower
    before = tower.fingerprint()
    weight = pipe.model.text_projection.weight
    with torch.no_grad():
        weight += 1
        changed = tower.fingerprint()
        weight -= 1
    assert changed != before


def test_models_that_do_not_fit_say_what_does(tmp_path):
    """GroupViT gathers patches into groups between its blocks; what leaves them are no patches."""
    vision = dict(
        hidden_size=32, depths=[1, 1, 1], num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_group_tokens=[8, 4, 0], num_output_groups=[8, 4, 0],
    )  # fmt: skip
    model = transformers.GroupViTModel(transformers.GroupViTConfig(text_config=TEXT, vision_config=vision))
    with pytest.raises(UnsupportedModelError, match=r"GroupViTModel .*What works:[\s\S]*SiglipModel"):
        pipeline(TASK, model=model, tokenizer=tokenizer_of_words("$A </s>"), image_processor=CLIPImageProcessor())
