"""The memory of unlabelled pictures: the published arrays, what is on disk, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import golden
import numpy as np
import pytest
import torch
from corrclip_golden import CLASSES, DINO, SECOND, Given, Saved
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, SettingError
from sclip_plugin.guides import as_guide
from sclip_plugin.memory import MemoryStore
from sclip_plugin.methods.corrclip import CorrCLIP
from sclip_plugin.steps.lposs import LPOSS
from sclip_plugin.steps.memory import MemoryBank
from sclip_plugin.storage.files import write_atomically


class WithText:
    """A text bank that has one answer."""

    def __init__(self, text):
        self.text = text

    def embed_vocabulary(self, vocabulary, templates):
        return self.text


def segmenter(bank="text_bank"):
    seg = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, window=112, stride=56)
    seg.chain.text_bank = WithText(SECOND[bank])
    return seg


def published_bank(folder, seg, guide, rows: int, second=None) -> MemoryBank:
    from sclip_plugin.storage.fingerprint import fingerprint

    models = {"main": seg.model_identity()} | ({"second": second.model_identity()} if second else {})
    weights = fingerprint(guide.module.state_dict().values())
    store = MemoryStore.create(folder, {"guide": None, "guide's weights": weights, "models": models})
    names = {"main": "main"} | ({"second": "aux"} if second else {})
    for part in (slice(0, rows // 3), slice(rows // 3, rows)):  # two shards
        values = {name: SECOND[f"bank.values.{theirs}"][part] for name, theirs in names.items()}
        store.append([(str(part), part.stop - part.start)], SECOND["bank.keys"][part], values)
    return MemoryBank(folder=folder, guide=guide, second=second)


@pytest.mark.parametrize(
    ("name", "rows", "aux"),
    [("segmentor", 60, True), ("segmentor_small_bank", 12, True), ("segmentor_no_aux", 60, False)],
)
def test_pictures_are_the_published_ones(name, rows, aux, tmp_path, monkeypatch):
    seg, guide = segmenter(), Saved(SECOND[f"{name}.vfm"])
    bank = published_bank(tmp_path, seg, guide, rows, segmenter("text_bank.aux") if aux else None)
    asked = []
    support = MemoryBank.support
    monkeypatch.setattr(MemoryBank, "support", lambda self, q: asked.append(support(self, q)) or asked[-1])
    pixels = golden.arrays("inputs")["small" if "_" in name else "scene"][0]
    size = tuple(SECOND[f"{name}.mask"].shape)
    result = seg(
        golden.prepared(pixels, size, Image.new("RGB", size[::-1])),
        CLASSES,
        method=CorrCLIP(guide=guide, correlation="picture", merge=None),
        masks=Given(name=f"2:{name}"),
        steps=[bank, "vote"],
        logit_scale=40,
    )
    assert (asked[0] == SECOND[f"{name}.neighbours"]).all()
    logits = result._scores.maps.full().permute(2, 0, 1)
    golden.assert_equal(golden.every_fourth(logits)[None], SECOND[f"{name}.slide_logits.every4"])
    golden.assert_equal(golden.every_fourth(torch.from_numpy(result.scores)), SECOND[f"{name}.probs.scale40.every4"])
    assert (torch.from_numpy(result.label_map) == SECOND[f"{name}.labels.scale40"][0]).all()


def test_a_built_bank_is_the_published_one(tmp_path):
    seg = segmenter()
    picture = Image.fromarray(SECOND["built.picture"].numpy())
    bank = MemoryBank.build(
        seg, [picture], tmp_path, guide=Saved(SECOND["built.vfm"]), method=CorrCLIP(guide=DINO, merge=None),
        masks=Given(name="2:built"), resize_short_side=224, window=168, stride=112,
    )  # fmt: skip
    keys = torch.cat([file.get_tensor("keys") for file in bank.store.files]).float()
    values = bank.store.values("main", torch.arange(len(keys)))
    half = 2**-10  # both are stored in half precision, where a last digit may fall the other way
    golden.assert_equal(keys, SECOND["built.keys"], half)
    golden.assert_equal(values, SECOND["built.values"], half)


PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (60 + i, 80, 3), dtype=np.uint8)) for i in range(5)
]
BUILT = {"guide": DINO, "masks": "slic(segments=6)", "method": "clearclip", "resize_short_side": 0}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("sclip_plugin.steps.memory.PICTURES_A_SHARD", 2)
    return sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, templates="plain", window=64)


def test_a_build_that_was_stopped_goes_on_and_ids_stay(small, tmp_path):
    whole = MemoryBank.build(small, PICTURES, tmp_path / "whole", **BUILT)

    def until_the_fourth():
        yield from PICTURES[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MemoryBank.build(small, until_the_fourth(), tmp_path / "part", **BUILT)
    assert len(MemoryStore(tmp_path / "part").parts()) == 2
    before = MemoryStore(tmp_path / "part").keys
    done = []
    part = MemoryBank.build(small, PICTURES, tmp_path / "part", progress=done.append, **BUILT)
    assert torch.equal(part.store.keys, whole.store.keys) and torch.equal(part.store.keys[: len(before)], before)
    assert part.identity() == whole.identity() and len(part) == len(whole.store.keys) and done[-1] == 5
    assert list(part.store.pictures()) == list(whole.store.pictures())
    # Nothing is done twice, and more can be added.
    MemoryBank.build(small, PICTURES, tmp_path / "part", **BUILT)
    assert len(MemoryStore(tmp_path / "part").parts()) == 3
    more = MemoryBank.build(small, [PICTURES[0].rotate(90)], tmp_path / "part", **BUILT)
    assert len(more) > len(whole)
    assert torch.equal(more.store.keys[: len(whole)], whole.store.keys) and more.identity() != whole.identity()


def test_any_method_takes_it_and_an_encoded_picture_too(small, tmp_path):
    bank = MemoryBank.build(small, PICTURES, tmp_path, **BUILT)
    asked = {"method": "csa", "masks": "slic(segments=6)", "resize_short_side": 0}
    plain = small(PICTURES[0], ["cat", "dog"], **{**asked, "masks": None})
    result = small(PICTURES[0], ["cat", "dog"], steps=[bank], **asked)
    none = small(PICTURES[0], ["cat", "dog"], steps=[MemoryBank(folder=tmp_path, guide=DINO, share=0.0)], **asked)
    golden.assert_equal(torch.from_numpy(none.scores), torch.from_numpy(plain.scores))
    assert np.abs(result.scores - plain.scores).max() > 1e-3
    encoded = small.encode(PICTURES[0], dtype=torch.float32, **asked)
    golden.assert_equal(
        torch.from_numpy(encoded.segment(["cat", "dog"], steps=[bank]).scores), torch.from_numpy(result.scores)
    )
    assert result.settings["identity"] != plain.settings["identity"]
    # With the whole share, each region has one score for all of its pixels.
    alone = small(PICTURES[0], ["cat", "dog"], steps=[MemoryBank(folder=tmp_path, guide=DINO, share=1.0)], **asked)
    assert len(np.unique(alone.scores[0].round(5))) <= 6


def test_other_models_are_refused(small, tmp_path):
    MemoryBank.build(small, PICTURES[:1], tmp_path, **BUILT)
    asked = {"masks": "slic(segments=6)"}
    with pytest.raises(SettingError, match="outside model in hand"):
        small(PICTURES[0], ["cat"], steps=f"memory({str(tmp_path)!r})", **asked)
    with pytest.raises(SettingError, match="another outside model"):
        small(PICTURES[0], ["cat"], steps=[MemoryBank(folder=tmp_path, guide=transformers_model("dino16"))], **asked)
    other = sp.Segmenter.from_pretrained("demo")
    with pytest.raises(SettingError, match="another CLIP"):
        other(PICTURES[0], ["cat"], steps=[MemoryBank(folder=tmp_path, guide=DINO)], **asked)
    with pytest.raises(SettingError, match="no second CLIP"):
        small(PICTURES[0], ["cat"], steps=[MemoryBank(folder=tmp_path, guide=DINO, second=other)], **asked)
    with pytest.raises(SettingError, match="masks='slic'"):
        small(PICTURES[0], ["cat"], steps=[MemoryBank(folder=tmp_path, guide=DINO)])
    with pytest.raises(SettingError, match="another guide's weights and settings"):
        MemoryBank.build(small, PICTURES, tmp_path, **{**BUILT, "guide": transformers_model("dino16"), "method": "csa"})
    with pytest.raises(SettingError, match="no folder"):
        MemoryBank(folder=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="no memory"):
        MemoryBank(folder=tmp_path / "empty")
    with pytest.raises(SettingError, match="masks='slic'"):
        MemoryBank.build(small, PICTURES, tmp_path / "new", guide=DINO)


@pytest.mark.parametrize(
    "changes",
    [
        {"stitched": True}, {"views": 0.6}, {"padding": "black"}, {"method": "csa"}, {"method": "naclip(std=4)"},
        {"window": 48}, {"stride": 16}, {"resize_short_side": 70}, {"masks": "slic(segments=7)"},
    ],
    ids=str,
)  # fmt: skip
def test_a_memory_of_other_features_or_regions_is_not_added_to(small, tmp_path, changes):
    MemoryBank.build(small, PICTURES[:1], tmp_path, **BUILT)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SettingError, match="another settings"):
        MemoryBank.build(small, PICTURES[1:2], tmp_path, **{**BUILT, **changes})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    # What decides no feature may differ.
    same = {"logit_scale": 7.0, "steps": "closing", "background": True, "templates": "imagenet"}
    more = MemoryBank.build(small, PICTURES[1:2], tmp_path, **BUILT, **same)
    assert len(more.store.pictures()) == 2


def test_a_memory_of_another_format_is_refused(small, tmp_path):
    """One that was made before settings were said in this way: its head has other keys."""
    MemoryBank.build(small, PICTURES[:1], tmp_path, **BUILT)
    head = tmp_path / MemoryStore.HEAD
    old = {"format": "sclip_plugin memory 1", "vfm": None, "vfm weights": "0", "models": {}, "settings": {}}
    write_atomically(head, json.dumps(old).encode())
    for ask in (lambda: MemoryBank(folder=tmp_path), lambda: MemoryBank.build(small, PICTURES, tmp_path, **BUILT)):
        with pytest.raises(FileFormatError, match="sclip memory build"):
            ask()


class TestAModelInHand:
    """It is used as it is: never moved, never cast."""

    @pytest.fixture
    def half(self):
        return sp.Segmenter.from_pretrained("demo", dtype="bfloat16", cache_dir=False, templates="plain", device="cpu")

    def test_a_memory_by_a_model_s_own_tower_leaves_the_model_as_it_was(self, half, tmp_path):
        picture, asked = PICTURES[0], {"masks": "slic(segments=6)", "steps": "vote"}
        before, weights = half(picture, ["cat", "dog"], **asked), half.weights()
        own, masks = half.model.vision_model, "slic(segments=6)"
        bank = MemoryBank.build(half, [picture], tmp_path, guide=own, masks=masks)
        assert {tensor.dtype for tensor in half.model.state_dict().values() if tensor.is_floating_point()} == {
            torch.bfloat16
        }
        result = half(picture, ["cat", "dog"], masks=masks, steps=[bank, "vote"])
        assert np.isfinite(result.scores).all()
        after = half(picture, ["cat", "dog"], **asked)
        np.testing.assert_array_equal(after.label_map, before.label_map)
        np.testing.assert_array_equal(after.scores, before.scores)
        assert half.weights() == weights and half.dtype == "bfloat16"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
    def test_whatever_asks_for_it_gets_it_as_it_is(self, dtype):
        module = copy.deepcopy(transformers_model("dino16")).to(torch.bfloat16)
        guide = as_guide(module, device=torch.device("cpu"), dtype=dtype)
        assert guide.module is module and next(module.parameters()).dtype == torch.bfloat16
        assert as_guide(guide, device=torch.device("meta"), dtype=dtype) is guide
        assert next(module.parameters()).device.type == "cpu"

    @pytest.mark.parametrize("steps", [["lposs"], []], ids=["lposs", "proxyclip"])
    def test_steps_and_methods_look_through_one_in_another_precision(self, segmenter, steps):
        module = copy.deepcopy(transformers_model("dino16")).to(torch.bfloat16)
        method = {"method": "csa"} if steps else {"method": "proxyclip", "guide": module}
        steps = [LPOSS(guide=module, k=20) for _ in steps]
        exact = transformers_model("dino16")
        theirs = {**method, "guide": exact} if "guide" in method else method
        result = segmenter(PICTURES[0], ["cat", "dog"], steps=steps, **method)
        expected = segmenter(PICTURES[0], ["cat", "dog"], steps=[LPOSS(guide=exact, k=20) for _ in steps], **theirs)
        assert next(module.parameters()).dtype == torch.bfloat16
        assert np.abs(result.scores - expected.scores).mean() < 0.05


def test_two_clips(small, tmp_path):
    second = sp.Segmenter(golden.model("open_clip"), golden.tokenizer_of("open_clip"), cache_dir=False,
                          templates="plain", image_mean=(0.5, 0.5, 0.5))  # fmt: skip
    bank = MemoryBank.build(small, PICTURES, tmp_path, second=second, **BUILT)
    rows = bank.support(bank.store.keys[:3])
    assert bank.value("main", rows).shape == bank.value("second", rows).shape == (3, 64)
    assert (bank.value("main", rows) - bank.value("second", rows)).abs().max() > 1e-3
    result = small(PICTURES[1], ["cat", "dog"], steps=[bank], masks="slic(segments=6)")
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("rows_at_once", [7, 2**16])
def test_search(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr("sclip_plugin.memory.store.ROWS_AT_ONCE", rows_at_once)
    store = MemoryStore.create(tmp_path, {})
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(40, 16, generator=generator)
    store.append([("a", 40)], keys, {"main": keys})
    store.append([("b", 0)], torch.zeros(0, 0), {"main": torch.zeros(0, 0)})  # a picture without regions
    queries = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1)
    found = store.nearest(queries, 5)
    unit = torch.nn.functional.normalize(keys.half().float(), dim=1)
    assert torch.equal(found, (queries @ unit.T).topk(5).indices)
    everything = store.nearest(queries, 50)
    assert (everything[:, 40:] == -1).all() and torch.equal(everything[:, :5], found)
    assert torch.equal(store.values("main", torch.tensor([3, 1, 3])), keys.half().float()[[3, 1, 3]])


def test_approximate_search_finds_most_of_the_exact(tmp_path):
    pytest.importorskip("faiss")
    store = MemoryStore.create(tmp_path, {})
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 32, generator=generator)
    keys = centres.repeat_interleave(40, dim=0) + 0.1 * torch.randn(1200, 32, generator=generator)
    store.append([("a", 1200)], keys, {"main": keys})
    queries = torch.nn.functional.normalize(centres, dim=1)
    exact, found = store.nearest(queries, 20, "exact"), store.nearest(queries, 20, "faiss")
    assert (exact // 40 == torch.arange(30)[:, None]).all()
    assert (found // 40 == torch.arange(30)[:, None]).float().mean() > 0.95


def test_the_command(tmp_path, capsys):
    from typer.testing import CliRunner

    from sclip_plugin.cli.program import app

    guide = transformers_model("corrclip")
    guide.save_pretrained(tmp_path / "dino")
    (tmp_path / "in").mkdir()
    for index, picture in enumerate(PICTURES[:3]):
        picture.save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    built = ["memory", "build", str(tmp_path / "in"), "--out", str(tmp_path / "bank"), "--model", "demo"]
    built += ["--masks", "slic(segments=6)", "--guide", str(tmp_path / "dino"), "--window", "64"]
    result = CliRunner().invoke(app, built)
    assert result.exit_code == 1 and "of 3 pictures" in result.stdout and "broken.png" in result.output
    assert len(MemoryStore(tmp_path / "bank").pictures()) == 3
    asked = ["segment", str(tmp_path / "in" / "0.png"), "--labels", "cat, grass", "--model", "demo", "--out"]
    asked += [str(tmp_path / "out"), "--masks", "slic(segments=6)", "--steps", f"memory({str(tmp_path / 'bank')!r})"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert str(tmp_path / "bank") in (tmp_path / "out" / "0.json").read_text()


def test_a_memory_brings_its_null(tmp_path):
    import shutil

    from typer.testing import CliRunner

    import sclip_plugin as sp
    from sclip_plugin.cli.program import app
    from sclip_plugin.steps import Presence

    transformers_model("corrclip").save_pretrained(tmp_path / "dino")
    shutil.copytree(sp.demo_model(), tmp_path / "model")
    (tmp_path / "model" / "presence.safetensors").unlink()
    (tmp_path / "in").mkdir()
    for seed in range(5):
        sp.draw_scene(seed=seed).picture.save(tmp_path / "in" / f"{seed}.png")
    model = ["--model", str(tmp_path / "model"), "--masks", "slic(segments=6)"]
    built = ["memory", "build", str(tmp_path / "in"), "--out", str(tmp_path / "bank"), *model]
    result = CliRunner().invoke(app, [*built, "--guide", str(tmp_path / "dino")])
    null = tmp_path / "bank" / "presence.safetensors"
    assert result.exit_code == 0 and f"with this memory uses {null}" in result.stdout
    assert Presence.load(null).pictures == 5
    asked = ["segment", str(tmp_path / "in" / "0.png"), "-l", "zebra, grass", "-o", str(tmp_path / "out"), *model]
    asked += ["--present", "yes"]
    with_bank = CliRunner().invoke(app, [*asked, "--steps", f"memory({str(tmp_path / 'bank')!r})"])
    assert with_bank.exit_code == 0 and "not there: zebra" in with_bank.stdout, with_bank.output
    assert "learned" not in with_bank.output and not (tmp_path / "out" / "presence.safetensors").exists()
    assert CliRunner().invoke(app, asked).exit_code != 0, "one picture teaches nothing"
    seg = sp.Segmenter.from_pretrained(str(tmp_path / "model"), masks="slic(segments=6)")
    steps = f"present, memory({str(tmp_path / 'bank')!r})"
    before = seg.identity(["zebra"], steps=steps)
    dataclasses.replace(Presence.load(null), threshold=9.0).save(null)
    assert seg.identity(["zebra"], steps=steps) != before
    with pytest.raises(SettingError, match="other settings"):
        seg(tmp_path / "in" / "0.png", ["zebra"], steps=steps, method="naclip")


def test_what_is_no_outside_model_is_said(small, tmp_path):
    MemoryBank.build(small, PICTURES[:1], tmp_path, **BUILT)
    for wrong in (0.5, "", 3, ["dino"]):
        with pytest.raises(SettingError):
            MemoryBank(folder=tmp_path, guide=wrong)
