"""Names without a vocabulary: the rule, lists and their files, labels that begin with @auto, pictures of nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.demo import CLASSES
from sclip_plugin.errors import LabelError, SettingError
from sclip_plugin.segment import covering, naming
from sclip_plugin.text import wordbank
from sclip_plugin.text.bank import TextBank
from sclip_plugin.text.wordbank import WordBank
from sclip_plugin.text.wordlist import Auto, WordList, as_auto, shipped

SCENES = [sp.draw_scene(seed=seed, size=(216, 144)) for seed in (2001, 2002, 2003)]


@pytest.fixture(scope="module")
def seg(tmp_path_factory):
    return sp.Segmenter.from_pretrained("demo", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "own.txt"
    path.write_text("\n".join(CLASSES), encoding="utf-8")
    return f"@auto:{path}"


def words(names):
    return {name.word for name in names}


@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_is_named_with_what_is_in_it(seg, own, scene):
    names = seg.names(scene.picture, labels=own)
    assert words(names) == set(scene.labels)
    assert [n.share for n in names] == sorted((n.share for n in names), reverse=True)
    assert sum(n.share for n in names) == pytest.approx(1, abs=1e-5)
    assert all(n.presence >= 0.5 and 0.3 < n.cosine <= 1 for n in names)
    assert seg.names(scene.picture, top=2, labels=own) == names[:2]


def test_words_of_one_meaning_are_one_and_the_offered_one_is_said(seg):
    scene = SCENES[0]
    found = seg.names(scene.picture, labels=["@auto", *scene.labels])
    assert words(found) == set(scene.labels)
    assert any("sunflower" in n.synonyms or n.synonyms for n in found)
    plain = seg.names(sp.draw_scene(seed=7).picture)
    assert words(plain) == {"wall", "pizza", "flower", "giant panda", "book", "dog", "cow"}  # it shows bricks
    assert ("dairy cow",) in [name.synonyms for name in plain if name.word == "cow"]
    assert not {other for n in plain for other in n.synonyms} & words(plain)


def test_an_encoded_picture_has_the_same_names(seg, own):
    encoded = seg.encode(SCENES[0].picture, dtype=torch.float32)
    assert seg.names(encoded, labels=own) == seg.names(SCENES[0].picture, labels=own)


def test_names_are_ordinary_labels_from_there_on(seg, own):
    scene = SCENES[1]
    result = seg(scene.picture, own)
    plain = seg(scene.picture, list(result.labels))
    np.testing.assert_array_equal(result.label_map, plain.label_map)
    assert result.presence == pytest.approx(plain.presence, abs=1e-4)
    offered = seg(scene.picture, f"{own}, zebra")
    assert offered.labels[0] == "zebra" and not offered.mask("zebra").any()
    assert seg.encode(scene.picture, dtype=torch.float32).segment(own).labels == result.labels


def test_synonyms_stay_with_the_result_and_its_file(seg, tmp_path):
    result = seg(SCENES[0].picture, "@auto")
    assert result.synonyms and set(result.synonyms) <= set(result.labels)
    result.save(tmp_path)
    assert sp.Segmentation.load(tmp_path).synonyms == result.synonyms


def test_masks_get_words(seg, own):
    scene = SCENES[2]
    named = seg.encode(scene.picture).classify(scene.label_map + 1, own)
    assert [str(label) for label in named.labels_of_masks] == list(scene.labels)
    assert seg.encode(scene.picture).classify(np.zeros((144, 216), int), own).labels_of_masks == ()


def test_a_word_that_presence_denies_is_no_name(seg, own):
    found = seg.names(SCENES[0].picture, labels=own)
    strict = dataclasses.replace(seg.chain.null, threshold=3.5)
    kept = seg.names(SCENES[0].picture, labels=own, present=strict)
    assert words(kept) < words(found)
    assert seg(SCENES[0].picture, own, present=False).labels == tuple(n.word for n in found)


@pytest.mark.parametrize("seed", range(3))
def test_noise_has_one_name(seg, seed):
    """That which is least far away; four words would cover it."""
    noise = np.random.default_rng(seed).integers(0, 256, (144, 216, 3), dtype=np.uint8)
    assert len(seg.names(noise)) == 1


def test_where_nothing_is_found_nothing_is_labelled(seg):
    grey = np.full((144, 216, 3), 128, np.uint8)
    assert seg.names(grey) == ()
    assert (seg(grey, "@auto", present=False).label_map == -1).all()
    result = seg(grey, "@auto")
    assert result.labels == (naming.UNNAMED,) and (result.label_map == -1).all()


def test_greedy_cover_by_hand():
    cosines = torch.tensor([[0.9, 0.8, 0.1, 0.35], [0.0, 0.75, 0.2, 0.35], [0.1, 0.1, 0.7, 0.35]])
    share = torch.tensor([0.5, 0.3, 0.2])
    # above 0.3: word 0 gains 0.30, word 1 0.385; beside word 1, word 2 gains 0.08 and word 0 0.05
    assert covering.greedy_cover(cosines, share, 0.3, 0.01) == [1, 2, 0]
    assert covering.greedy_cover(cosines, share, 0.3, 0.06) == [1, 2]
    assert covering.greedy_cover(cosines, share, 0.95, 0.001) == []


def test_regions_are_those_of_well_parted_patches():
    base = torch.eye(8)[:3]
    patches = torch.nn.functional.normalize(base.repeat_interleave(torch.tensor([20, 60, 20]), 0), dim=1)
    centre, share = covering.regions(patches + 0)
    assert torch.allclose(centre.norm(dim=1), torch.ones(len(centre)), atol=1e-6)
    near = centre @ base.T
    assert torch.allclose(near.amax(dim=1), torch.ones(len(centre)), atol=1e-6)
    assert [float(share[near.argmax(dim=1) == i].sum()) for i in range(3)] == pytest.approx([0.2, 0.6, 0.2])


def test_likeness_is_the_cosine_of_vectors_without_the_mean():
    rows = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.manual_seed(0)) + 1, dim=1)
    mean = rows[:4].mean(dim=0)
    seen = torch.nn.functional.normalize(rows - mean, dim=1)
    assert torch.allclose(covering.likeness(rows, [2, 0], mean), seen[[2, 0]] @ seen.T, atol=1e-5)


def test_the_word_to_say():
    known = WordList(("kitten", "cat", "car", "automobile", "zoo"), preferred=1)
    alike = torch.tensor([[True, True, False, False, True], [False, False, True, True, False]])
    cosines = torch.tensor([[0.6, 0.58, 0.0, 0.0, 0.1], [0.0, 0.0, 0.5, 0.6, 0.0]])

    def said(offered):
        return covering.merged([1, 3], alike, cosines, known, frozenset(offered), slack=0.15)

    assert said(()) == {0: [1, 4], 2: [3]}  # preferred; the shorter; "zoo" is not in the region
    assert said({"cat"}) == {1: [0, 4], 2: [3]}
    assert covering.merged([3, 2], alike[[1, 1]], cosines, known, frozenset(), slack=0.0) == {3: [2]}


@pytest.mark.parametrize(
    ("labels", "file", "offered"),
    [
        ("@auto", None, []),
        (" @auto ", None, []),
        ("@auto:a list.txt", "a list.txt", []),
        ("@auto, cat, sofa|couch,", None, [["cat"], ["sofa", "couch"]]),
        (["@auto", "cat", ["sofa", "couch"]], None, ["cat", ["sofa", "couch"]]),
    ],
)
def test_forms_of_auto(labels, file, offered):
    assert as_auto(labels) == Auto(file, offered)


@pytest.mark.parametrize("labels", ["auto", "automobile", "cat, @auto", ["cat"], {"@auto": ["x"]}, None, []])
def test_what_is_not_auto(labels):
    assert as_auto(labels) is None


def test_doubles_blanks_and_the_order_of_a_list():
    known = WordList.of(["dog", "Cat", " sea   lion ", ""], preferred=["cat", "CAT"])
    assert known == WordList(("cat", "dog", "sea lion"), preferred=1)
    assert len(shipped().words) > 3900 and shipped().words[: shipped().preferred][-1] == "zucchini"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_in_any_encoding_with_doubles_and_empty_lines(encoding, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# mine\r\nKüche\r\n\r\nküche\r\ncat, kitten\r\n", encoding=encoding)
    assert Auto(str(path)).words().words == ("Küche", "cat", "kitten")
    path.write_text("another\nlist, of\nwords", encoding=encoding)
    assert Auto(str(path)).words().words == ("another", "list", "of", "words")


def test_lists_that_are_refused(seg, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Küche\nBär\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n\n")
    for name in ("latin.txt", "empty.txt", "missing.txt"):
        with pytest.raises(LabelError, match=name):
            seg.names(SCENES[0].picture, labels=f"@auto:{tmp_path / name}")
    with pytest.raises(LabelError, match="expected 1 to 250,000"):
        WordList.of(str(number) for number in range(250_001))
    with pytest.raises(LabelError, match="names no file"):
        seg(SCENES[0].picture, "@auto:")
    with pytest.raises(LabelError, match="expected '@auto'"):
        seg.names(SCENES[0].picture, labels="cat")
    with pytest.raises(LabelError, match="sclip names"):
        seg.text_embeddings("@auto")


def test_two_hundred_thousand_words_are_a_list(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"word {number}" for number in range(200_000)))
    assert len(Auto(str(path)).words().words) == 200_000


def test_a_file_is_read_only_where_paths_are_unless_it_was_named(own):
    server = sp.Segmenter.from_pretrained("demo", cache_dir=False, paths=False)
    picture = np.asarray(SCENES[0].picture)
    with pytest.raises(LabelError, match="whoever started the server"):
        server(picture, own)
    server.named_files = frozenset({own.partition(":")[2]})
    assert set(server(picture, own).labels) == set(SCENES[0].labels)


def test_what_names_do_not_go_with(seg, own):
    with pytest.raises(SettingError, match="smoothing"):
        list(seg.stream([SCENES[0].picture], own, smoothing=0.5))
    with pytest.raises(SettingError, match="depend on the words"):
        seg(SCENES[0].picture, own, method="resclip")
    with pytest.raises(SettingError, match="sclip presence build"):
        seg.names(SCENES[0].picture, labels=own, method="naclip")
    with pytest.raises(SettingError, match="older release"):
        seg.names(SCENES[0].picture, labels=own, present=dataclasses.replace(seg.chain.null, raw_spread=0.0))
    with pytest.raises(SettingError, match="top=0"):
        seg.names(SCENES[0].picture, top=0)


def test_the_identity_has_the_list_in_it(seg, own):
    assert len({seg.identity(own), seg.identity("@auto"), seg.identity("@auto, cat"), seg.identity(["cat"])}) == 4
    assert seg.identity("@auto") == seg.identity("@auto")


def test_a_list_is_embedded_once_a_model(seg, tmp_path, monkeypatch):
    known, told = WordList.of(CLASSES), []
    monkeypatch.setattr(wordbank, "AT_ONCE", 20)
    text_bank = TextBank(seg.text_bank.tower, tmp_path)
    bank = WordBank(text_bank).of(known, lambda *said: told.append(said))
    assert [(done, of) for done, of, _ in told] == [(20, 50), (40, 50), (50, 50)] and told[-1][2] == 0
    assert torch.allclose(bank, seg.text_bank.embed(CLASSES, wordbank.TEMPLATES).cpu(), atol=1e-5)
    again = WordBank(TextBank(seg.text_bank.tower, tmp_path))
    monkeypatch.setattr(again.text_bank, "rows", None)  # would fail
    assert torch.equal(again.of(known), bank) and again.of(known) is again.of(known)
    (file,) = tmp_path.glob("*.sclip")
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(WordBank(TextBank(seg.text_bank.tower, tmp_path)).of(known), bank)
    other = TextBank(seg.text_bank.tower, tmp_path)
    monkeypatch.setattr(other, "answers", lambda: text_bank.answers().flip(0))
    monkeypatch.setattr(other, "rows", lambda *_: torch.zeros(20, 4))
    assert WordBank(other).of(known).shape == (60, 4)  # a model that answers otherwise embeds anew
