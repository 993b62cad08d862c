"""Labels, templates, the trimmed text bank and its cache."""

import copy
import multiprocessing
import os
import warnings
from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sclip_plugin.device import CPU
from sclip_plugin.errors import LabelError, UnknownNameError, UnsupportedModelError
from sclip_plugin.storage.cache import DiskCache
from sclip_plugin.storage.fingerprint import bit_sums
from sclip_plugin.text.bank import TextBank
from sclip_plugin.text.base import PROBES
from sclip_plugin.text.labels import background_names, imagenet_templates, parse_labels, parse_templates
from sclip_plugin.text.towers import CausalTextTower, find_text_tower

NAMES = ("cat", "potted plant", "person in shirt", "dog", "cat")
TEMPLATES = imagenet_templates()[:7] + ("a photo of a {}.", "{}")


def plain_bank(framework: str) -> torch.Tensor:
    """The published way: 77 positions for every prompt, through the framework's own text forward."""
    model, tokenize = golden.model(framework), golden.tokenizer_of("open_clip")
    rows = []
    for name in NAMES:
        ids = tokenize([template.format(name) for template in TEMPLATES])
        with torch.no_grad():
            if framework == "transformers":
                output = model.get_text_features(input_ids=ids)
                embedded = output if isinstance(output, torch.Tensor) else output.pooler_output
            else:
                embedded = model.encode_text(ids)
        rows.append(F.normalize(F.normalize(embedded, dim=-1).mean(dim=0), dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("framework", ["transformers", "open_clip", "open_clip_custom_text", "openai"])
def test_the_trimmed_bank_is_the_plain_one(framework):
    tower = find_text_tower(golden.model(framework), golden.tokenizer_of(framework))
    bank = TextBank(tower, cache_dir=False).embed(NAMES, TEMPLATES)
    golden.assert_equal(bank, plain_bank(framework))


@pytest.fixture
def tower():
    """The fast way of a model that it is right for."""
    tower = find_text_tower(golden.model("open_clip"), golden.tokenizer_of("open_clip")).chosen
    assert isinstance(tower, CausalTextTower)
    return tower


def count_encodings(tower, monkeypatch) -> list[int]:
    """How many prompts went through the tower each time, the probes apart."""
    calls: list[int] = []
    encode, probes = tower.encode, tower.read(PROBES).tokens

    def counted(tokens):
        if tokens != probes:
            calls.append(len(tokens))
        return encode(tokens)

    monkeypatch.setattr(tower, "encode", counted)
    return calls


@pytest.mark.parametrize("worth", [0, 3, 10**6], ids="prefixes of {} tokens".format)
@pytest.mark.parametrize("framework", ["transformers", "open_clip"])
def test_sharing_prefixes_and_batches_change_nothing(framework, worth, monkeypatch):
    """The tree cut finely, coarsely or not at all, in small batches or whole: equal to 77 positions a prompt."""
    monkeypatch.setattr("sclip_plugin.text.prefixes.WORTH_SHARING", worth)
    tower = find_text_tower(golden.model(framework), golden.tokenizer_of(framework))
    whole = TextBank(tower, cache_dir=False).embed(NAMES, TEMPLATES)
    golden.assert_equal(whole, plain_bank(framework))
    monkeypatch.setattr("sclip_plugin.text.causal.PROMPTS_AT_ONCE", 5)
    monkeypatch.setattr("sclip_plugin.device.CPU", replace(CPU, tokens=7))
    golden.assert_equal(TextBank(tower, cache_dir=False).embed(NAMES, TEMPLATES), whole)


def test_a_callers_autocast_does_not_reach_what_is_kept(tower, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        TextBank(tower, tmp_path).embed(NAMES, TEMPLATES)
    kept = TextBank(tower, tmp_path).embed(NAMES, TEMPLATES)
    golden.assert_equal(kept, plain_bank("open_clip"))


def test_a_prompt_in_front_of_another(tower):
    """Without an end token of its own, which the tokenizers give, a prompt may be another's prefix."""
    prompts = [[1, 5, 6], [1, 5], [1, 5, 6, 7], [1, 5, 6], [1, 5, 7]]
    together = tower.encode(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        golden.assert_equal(row, tower.encode([prompt])[0])


def test_what_is_shared_goes_through_the_tower_once(tower, monkeypatch):
    seen: list[int] = []
    run = tower._run
    monkeypatch.setattr(tower, "_run", lambda ids, *rest: seen.append(ids.numel()) or run(ids, *rest))
    tower.encode([[1, 2, 3, 4, 10 + i, 9] for i in range(20)])
    assert sum(seen) == 4 + 20 * 2


def test_prompts_are_embedded_once(tower, monkeypatch):
    calls = count_encodings(tower, monkeypatch)
    TextBank(tower, cache_dir=False).embed(("cat", "dog", "cat"), ("a photo of a {}.", "a {}"))
    assert calls == [4]


def test_the_cache_serves_the_next_process_and_follows_weights_names_and_templates(tower, monkeypatch, tmp_path):
    calls = count_encodings(tower, monkeypatch)
    first = TextBank(tower, tmp_path).embed(("cat", "dog"), TEMPLATES)
    again = TextBank(tower, tmp_path).embed(("cat", "dog"), TEMPLATES)
    assert len(calls) == 1
    assert torch.equal(first, again)
    TextBank(tower, tmp_path).embed(("dog", "cat"), TEMPLATES)
    TextBank(tower, tmp_path).embed(("cat", "dog"), TEMPLATES[:3])
    assert len(calls) == 3
    with torch.no_grad():
        tower.blocks[1].mlp.c_fc.weight[3, 5] += 0.01
    TextBank(tower, tmp_path).embed(("cat", "dog"), TEMPLATES)
    assert len(calls) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int8], ids=str)
@pytest.mark.parametrize("size", [1, 7, 8, 2047, 2048, 300_001])
def test_no_weight_changes_unnoticed(size, dtype):
    weights = (torch.arange(2 * size + 1) % 101).to(dtype)[1 : size + 1]  # not at the start of its memory
    before = bit_sums(weights)
    assert torch.equal(bit_sums(weights.clone()), before)
    for place in {0, size // 3, size - 1}:
        changed = weights.clone()
        changed[place] += 1
        assert not torch.equal(bit_sums(changed), before)
    if size > 1:
        assert not torch.equal(bit_sums(weights.flip(0)), before)


def test_a_broken_cache_file_is_made_again(tower, monkeypatch, tmp_path):
    first = TextBank(tower, tmp_path).embed(("cat",), TEMPLATES)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]])
    zeros = whole[:-64] + bytes(64)
    for broken in (b"", whole[:-9], b"{" * 100, flipped, zeros):
        file.write_bytes(broken)
        calls = count_encodings(tower, monkeypatch)
        assert torch.equal(TextBank(tower, tmp_path).embed(("cat",), TEMPLATES), first)
        assert calls == [9]
        assert torch.equal(TextBank(tower, tmp_path).embed(("cat",), TEMPLATES), first)
        assert calls == [9]


def test_a_cached_bank_of_others_is_not_taken(tower, tmp_path):
    """A file copied to another's name is not its bank."""
    bank = TextBank(tower, tmp_path)
    bank.embed(("cat",), TEMPLATES)
    (cat,) = tmp_path.iterdir()
    dog = TextBank(tower, tmp_path).embed(("dog",), TEMPLATES)
    (other,) = [path for path in tmp_path.iterdir() if path != cat]
    other.write_bytes(cat.read_bytes())
    assert torch.equal(TextBank(tower, tmp_path).embed(("dog",), TEMPLATES), dog)


def test_null_characters_do_not_make_two_banks_one(tower, tmp_path):
    bank = TextBank(tower, tmp_path)
    first, second = bank.embed(("a\0b", "c"), TEMPLATES), bank.embed(("a", "b\0c"), TEMPLATES)
    assert not torch.equal(first, second)


def test_weights_that_change_under_the_bank_are_noticed():
    model = copy.deepcopy(golden.model("open_clip"))
    bank = TextBank(find_text_tower(model, golden.tokenizer_of("open_clip")), cache_dir=False)
    before = bank.embed(("cat",), TEMPLATES)
    weights = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.transformer.resblocks[0].mlp.c_fc.weight.mul_(1.5)
    changed = bank.embed(("cat",), TEMPLATES)
    assert not torch.equal(changed, before)
    model.load_state_dict(weights)
    assert golden.relative_difference(bank.embed(("cat",), TEMPLATES), before) < 1e-6


def test_the_cache_is_bounded_and_the_least_recently_used_goes(tmp_path):
    cache = DiskCache(tmp_path, limit=3 * 132)
    for index, name in enumerate("abc"):
        cache.put(name, bytes(100))
        os.utime(cache.files()[-1][0], (index, index))
    assert cache.get("a") == bytes(100)
    cache.put("d", bytes(100))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    assert cache.clear() == 3 * 132 and cache.files() == []


class TestClassVectors:
    def test_a_vector_stands_for_words(self, tower):
        words = TextBank(tower, cache_dir=False).embed(("cat", "dog", "cow"), TEMPLATES)
        given = parse_labels({"cat": "cat", "mine": 3 * words[1], "several": words[[2, 0]].numpy()})
        assert given.labels == ("cat", "mine", "several") and given.class_of_name == (0, 1, 2, 2)
        bank = TextBank(tower, cache_dir=False).embed_vocabulary(given, TEMPLATES)
        assert golden.relative_difference(bank, words[[0, 1, 2, 0]]) < 1e-6

    def test_words_and_vectors_of_one_class(self, tower):
        words = TextBank(tower, cache_dir=False).embed(("cat", "dog", "cow"), TEMPLATES)
        given = parse_labels({"pet": ["cat", 2 * words[2], "dog"], "cow": words[:2]})
        assert given.names == ("cat", "dog", "pet [0]", "cow [0]", "cow [1]")
        assert given.class_of_name == (0, 0, 0, 1, 1)
        bank = TextBank(tower, cache_dir=False).embed_vocabulary(given, TEMPLATES)
        assert golden.relative_difference(bank, words[[0, 1, 2, 0, 1]]) < 1e-6
        assert parse_labels([["pet", words[0]]]).names == ("pet", "pet [0]")

    @pytest.mark.parametrize(
        "labels", [{"a": ["b", {"c": torch.ones(999)}]}, ["a", torch.ones(999)], [[torch.ones(999), "a"]]]
    )
    def test_errors_show_no_vector(self, labels):
        with pytest.raises(LabelError) as error:
            parse_labels(labels)
        assert len(str(error.value)) < 300

    def test_vectors_alone_need_no_words(self, tower):
        bank = TextBank(tower, cache_dir=False).embed_vocabulary(parse_labels({"a": torch.ones(64)}), TEMPLATES)
        torch.testing.assert_close(bank, torch.full((1, 64), 0.125))

    @pytest.mark.parametrize(
        ("vector", "says"),
        [
            (torch.zeros(64), "length 0"),
            (torch.full((64,), float("nan")), "NaN"),
            (torch.ones(1, 2, 3), "expected numbers"),
            (np.array(["a"]), "expected numbers"),
        ],
    )
    def test_what_is_no_vector_is_said(self, vector, says):
        with pytest.raises(LabelError, match=f"'crack'.*{says}"):
            parse_labels({"crack": vector, "cat": "cat"})

    def test_another_width_is_said(self, tower):
        with pytest.raises(LabelError, match="'crack' has 7 values; expected 64"):
            TextBank(tower, cache_dir=False).embed_vocabulary(
                parse_labels({"crack": torch.ones(7), "cat": "cat"}), TEMPLATES
            )

    def test_other_vectors_are_another_vocabulary(self):
        first, second = (parse_labels({"a": torch.eye(4)[i]}) for i in (0, 1))
        assert first.identity() != second.identity()


def _embed_in_a_process(folder, results) -> None:
    torch.set_num_threads(1)
    tower = find_text_tower(golden.model("open_clip"), golden.tokenizer_of("open_clip"))
    results.put(TextBank(tower, folder).embed(NAMES, TEMPLATES).sum().item())


def test_two_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_embed_in_a_process, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sums[0] == sums[1]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_cache_is_a_warning(tower, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept"):
        TextBank(tower, tmp_path / "file").embed(("cat",), TEMPLATES)


def test_long_labels_are_cut_with_a_warning_that_names_them(tower):
    long = "very " * 100 + "long cat"
    with pytest.warns(UserWarning, match="very very.*long cat") as caught:
        bank = TextBank(tower, cache_dir=False).embed(("cat", long), ("a photo of a {}.",))
    assert "'cat'" not in str(caught[0].message)
    assert bank.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TextBank(tower, cache_dir=False).embed(("cat",), ("a photo of a {}.",))


def test_a_model_without_text_tower_is_named():
    with pytest.raises(UnsupportedModelError, match="VisionTransformer"):
        find_text_tower(golden.model("timm"), golden.tokenizer_of("open_clip"))


@pytest.mark.parametrize(
    ("labels", "shown", "names"),
    [
        (["cat", "dog"], ("cat", "dog"), ("cat", "dog")),
        ("cat, remote control", ("cat", "remote control"), ("cat", "remote control")),
        (["cat", ["sofa", "couch"]], ("cat", "sofa"), ("cat", "sofa", "couch")),
        ({"seat": ["sofa", "couch"], "cat": "cat"}, ("seat", "cat"), ("sofa", "couch", "cat")),
        (("猫", "собака"), ("猫", "собака"), ("猫", "собака")),
    ],
)
def test_forms_of_labels(labels, shown, names):
    vocabulary = parse_labels(labels)
    assert vocabulary.labels == shown
    assert vocabulary.names == names


def test_background_is_one_more_class():
    vocabulary = parse_labels(["cat"], background=True)
    assert vocabulary.labels == ("cat", "background")
    assert vocabulary.names[1:] == background_names()
    assert set(vocabulary.class_of_name) == {0, 1}


@pytest.mark.parametrize(
    "labels", [[], "", " , ", ["cat", ""], [[]], ["cat", 3], 7, ["cat", "cat"], [None], {"a": [""]}]
)
def test_labels_that_name_nothing(labels):
    with pytest.raises(LabelError) as error:
        parse_labels(labels)
    assert len(str(error.value)) > 20


def test_templates():
    assert len(parse_templates("tips")) == 9 and parse_templates("tips")[-1] == "a photo of {}s."
    assert len(set(parse_templates("imagenet"))) == 80
    scene = parse_templates("scene")
    assert scene[:80] == parse_templates("imagenet") and len(set(scene)) == 85 and "in the scene." in scene[80]
    assert parse_templates("a drawing of a {}") == ("a drawing of a {}",)
    for wrong in ("no place", "{} and {}", [], ["a {}", 3]):
        with pytest.raises(UnknownNameError, match="template"):
            parse_templates(wrong)
