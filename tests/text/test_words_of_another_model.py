"""Words are those of the model as it is now: in memory, on disk, in an index, whatever was done to the model between.

Rows are what people do to a model or its tokenizer; each must change the words, and taking it back must bring the old
ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import open_clip
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.errors import SettingError
from sclip_plugin.storage.fingerprint import alike, identity_of, moment_of
from sclip_plugin.text.bank import TextBank
from sclip_plugin.text.towers import CausalTextTower, find_text_tower

NAMES = ("cat", "Dog")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def clip(quick_gelu: bool = False) -> open_clip.CLIP:
    """Tiny, with weights at which activations and single layers matter."""
    vision = dict(layers=2, width=32, head_width=16, patch_size=16, image_size=32)
    text = dict(width=32, heads=2, layers=2, context_length=40)
    model = open_clip.CLIP(24, vision, text, quick_gelu=quick_gelu).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        scale = 0.5 if parameter.dim() > 1 else 0.2
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + (1.0 if "ln_" in name else 0.0))
    return model


def tokenizer(clean: str = "lower"):
    return open_clip.tokenizer.SimpleTokenizer(context_length=40, clean=clean)


def own(model, tokens) -> torch.Tensor:
    return F.normalize(getattr(model, "base_model", model).encode_text(tokens(list(NAMES), context_length=40)), dim=-1)


def words(bank: TextBank) -> torch.Tensor:
    return bank.embed(NAMES, ("{}",))


def with_adapters(model, layers=("attn", "c_fc")):
    peft = pytest.importorskip("peft")
    if "attn" in layers and not hasattr(peft.tuners.lora.layer, "MultiheadAttention"):
        pytest.skip("this peft adapts no MultiheadAttention")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=list(layers))
    adapted = peft.get_peft_model(model, config, adapter_name="one").eval()
    adapted.add_adapter("two", config)
    generator = torch.Generator().manual_seed(6)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return adapted


def text_layer(model):
    return model.transformer.resblocks[0].mlp.c_fc


# In place -------------------------------------------------------------------------------------------------------------


def write_data(model) -> None:
    model.text_projection.data.copy_(model.text_projection.flip(0))


def write_one_row(model) -> None:
    row = model.token_embedding.weight.data[tokenizer()(["cat"], context_length=40)[0, 1]]
    row.copy_(row.flip(0))


def train_a_step(model) -> None:
    text_layer(model).weight.add_(0.1)


def another_parameter(model) -> None:
    model.positional_embedding = torch.nn.Parameter(model.positional_embedding.flip(0))
    model.text_projection = torch.nn.Parameter(model.text_projection.flip(0))


def another_layer(model) -> None:
    model.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()


def hook(model) -> None:
    text_layer(model).register_forward_hook(lambda module, given, output: 1.5 * output)


def hook_on_a_block(model) -> None:
    model.transformer.resblocks[-1].register_forward_hook(lambda module, given, output: output.roll(1, -1))


def another_forward(model) -> None:
    text_layer(model).forward = lambda x: 0.5 * F.linear(x, text_layer(model).weight)


IN_PLACE = [
    write_data, write_one_row, train_a_step, another_parameter, another_layer, hook, hook_on_a_block, another_forward,
]  # fmt: skip


@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("cache", [True, False], ids=["disk", "memory"])
def test_a_change_in_place_is_noticed(change: Callable, cache: bool, tmp_path):
    model, tokens = clip(), tokenizer()
    bank = TextBank(find_text_tower(model, tokens), tmp_path if cache else False)
    before = words(bank)
    assert (before - own(model, tokens)).abs().max() < 1e-5
    change(model)
    assert (own(model, tokens) - before).abs().max() > 1e-2  # it does something
    assert (words(bank) - own(model, tokens)).abs().max() < 1e-5
    if cache:  # and by the next process
        assert (words(TextBank(find_text_tower(model, tokens), tmp_path)) - own(model, tokens)).abs().max() < 1e-5


def test_adapters_that_are_switched(tmp_path):
    model, tokens = with_adapters(clip()), tokenizer()
    for cache in (tmp_path, False):
        bank = TextBank(find_text_tower(model, tokens), cache)
        seen = []
        for adapter in ("one", "two", None, "one"):
            if adapter is None:
                with model.disable_adapter():
                    seen.append(words(bank))
                    assert (seen[-1] - own(model, tokens)).abs().max() < 1e-4
                continue
            model.set_adapter(adapter)
            seen.append(words(bank))
            assert (seen[-1] - own(model, tokens)).abs().max() < 1e-4
        assert (seen[0] - seen[3]).abs().max() < 1e-4
        assert all((seen[0] - other).abs().max() > 1e-2 for other in seen[1:3])


def test_an_adapter_of_another_strength(tmp_path):
    tokens, seen = tokenizer(), []
    for strength in (1.0, 3.0):
        model = with_adapters(clip())
        for module in model.modules():
            if hasattr(module, "scaling"):
                module.scaling["one"] *= strength
        seen.append(words(TextBank(find_text_tower(model, tokens), tmp_path)))
        assert (seen[-1] - own(model, tokens)).abs().max() < 1e-4
    assert (seen[0] - seen[1]).abs().max() > 1e-2


def test_a_tokenizer_that_cleans_otherwise(tmp_path):
    model, seen = clip(), []
    for clean in ("lower", "whitespace"):
        tokens = tokenizer(clean)
        seen.append(words(TextBank(find_text_tower(model, tokens), tmp_path)))
        assert (seen[-1] - own(model, tokens)).abs().max() < 1e-5
    assert (seen[0][1] - seen[1][1]).abs().max() > 1e-2  # Dog
    tokens, other = tokenizer("lower"), tokenizer("whitespace")
    bank = TextBank(find_text_tower(model, tokens), False)
    words(bank)
    tokens.clean_fn = other.clean_fn  # in place
    assert (words(bank) - seen[1]).abs().max() < 1e-5


def test_another_activation_with_the_same_weights(tmp_path):
    tokens, seen = tokenizer(), []
    for quick in (False, True):
        seen.append(words(TextBank(find_text_tower(clip(quick), tokens), tmp_path)))
        assert (seen[-1] - own(clip(quick), tokens)).abs().max() < 1e-5
    assert (seen[0] - seen[1]).abs().max() > 1e-3


def test_what_is_the_same_is_found_again(tmp_path, monkeypatch):
    tokens = tokenizer()
    first = words(TextBank(find_text_tower(clip(), tokens), tmp_path))
    bank = TextBank(find_text_tower(clip(), tokens), tmp_path)
    monkeypatch.setattr(bank, "_compute", None)  # would fail
    assert torch.equal(words(bank), first) and torch.equal(words(bank), first)


def test_last_digits_of_another_processor_do_not_matter(tmp_path, monkeypatch):
    """The answers beside a bank are compared, not hashed."""
    model, tokens = clip(), tokenizer()
    first = words(TextBank(find_text_tower(model, tokens), tmp_path))
    bank = TextBank(find_text_tower(model, tokens), tmp_path)
    answers = bank.tower.answers()
    monkeypatch.setattr(bank.tower, "answers", lambda: answers + 1e-5)
    monkeypatch.setattr(bank, "_compute", None)
    assert torch.equal(words(bank), first)


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 2e-3), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_answers_are_alike_within_the_precision(dtype, far):
    ours = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    away = F.normalize(torch.ones(24), dim=0)
    assert alike(ours, ours + 0.9 * far * away, dtype) and not alike(ours, ours + 1.1 * far * away, dtype)
    assert not alike(ours, ours[:2], dtype) and not alike(ours, torch.full_like(ours, float("nan")), dtype)


def test_the_fast_way_is_proven_again_when_the_model_changes():
    model, tokens = clip(), tokenizer()
    bank = TextBank(find_text_tower(model, tokens), False)
    words(bank)
    assert isinstance(bank.tower.chosen, CausalTextTower)
    hook_on_a_block(model)
    words(bank)
    assert not isinstance(bank.tower.chosen, CausalTextTower)


# The hashes -----------------------------------------------------------------------------------------------------------


def test_an_identity_is_the_same_for_a_copy_and_in_wrappers():
    model = clip()
    assert identity_of(model) == identity_of(copy.deepcopy(model))
    segmenters = [sp.Segmenter(m, tokenizer(), cache_dir=False) for m in (model, torch.compile(model, backend="eager"))]
    assert segmenters[0].weights() == segmenters[1].weights()


def test_the_image_side_does_not_count_for_words():
    model = clip()
    tower = find_text_tower(model, tokenizer())
    fingerprint, moment = tower.fingerprint(), tower.moment()
    model.visual.proj.mul_(2.0)
    assert (tower.fingerprint(), tower.moment()) == (fingerprint, moment)
    model.ln_final.weight.data[3] += 1e-6
    assert tower.fingerprint() != fingerprint and tower.moment() != moment


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_int8_models_have_an_identity():
    linear = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    quantised = [torch.ao.quantization.quantize_dynamic(copy.deepcopy(linear), {torch.nn.Linear}) for _ in range(2)]
    assert identity_of(quantised[0]) == identity_of(quantised[1])
    assert moment_of(quantised[0]) == moment_of(quantised[1])
    linear[1].weight.mul_(1.5)  # of which int8 keeps the same numbers, with another scale
    other = torch.ao.quantization.quantize_dynamic(linear, {torch.nn.Linear})
    assert identity_of(other) != identity_of(quantised[0]) and moment_of(other) != moment_of(quantised[0])


# Segmenter and index --------------------------------------------------------------------------------------------------


def test_a_segmenter_s_identity_follows_adapters_activation_and_tokenizer():
    model = with_adapters(clip(), ["c_fc"])
    seg = sp.Segmenter(model, tokenizer(), cache_dir=False)
    one, weights = seg.identity(NAMES), seg.weights()
    assert seg.identity(NAMES) == one
    model.set_adapter("two")
    assert seg.weights() != weights and seg.identity(NAMES) != one
    model.set_adapter("one")
    assert seg.weights() == weights and seg.identity(NAMES) == one
    with model.disable_adapter():
        assert seg.weights() != weights
    plain = sp.Segmenter(clip(), tokenizer(), cache_dir=False)
    assert sp.Segmenter(clip(True), tokenizer(), cache_dir=False).weights() != plain.weights()
    other = sp.Segmenter(clip(), tokenizer("whitespace"), cache_dir=False)
    assert other.weights() == plain.weights() and other.identity(NAMES) != plain.identity(NAMES)


def test_weights_that_an_adapter_rounds_at_its_first_call_are_named_alike_before_and_after():
    seg = sp.Segmenter(with_adapters(clip()), tokenizer(), cache_dir=False)
    before = seg.weights()
    seg.answers()
    assert seg.weights() == before


def test_an_index_of_a_model_that_answers_otherwise_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "photos").mkdir()
    sp.draw_scene(1, size=(48, 48)).picture.save(tmp_path / "photos" / "1.png")
    model, folder = clip(), tmp_path / "index"
    seg = sp.Segmenter(model, tokenizer(), cache_dir=False)
    sp.Index.build(seg, tmp_path / "photos", folder)
    sp.Index(folder, seg)
    with pytest.raises(SettingError, match="another model.*adapters or activations differ"):
        sp.Index(folder, sp.Segmenter(clip(True), tokenizer(), cache_dir=False))
    handle = model.visual.transformer.resblocks[0].mlp.c_fc.register_forward_hook(lambda m, given, output: 2 * output)
    for ask in (lambda: sp.Index(folder, seg), lambda: sp.Index.build(seg, tmp_path / "photos", folder)):
        with pytest.raises(SettingError, match="answers otherwise.*a hook"):
            ask()
    handle.remove()
    sp.Index(folder, seg)
