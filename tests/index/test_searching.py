"""What is found: the same as exact search finds, by words, examples, folders and absence, with its place."""

import numpy as np
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, PictureError, SettingError
from sclip_plugin.index import nearest, searching
from sclip_plugin.index.nearest import Codes, update_codes
from sclip_plugin.index.regions import Reduced, quantised
from sclip_plugin.index.searching import Question, Searcher
from sclip_plugin.index.sheet import contact_sheet
from sclip_plugin.index.store import IndexStore, Row


def paths(hits):
    return [hit.path for hit in hits]


def test_scores_are_those_of_the_best_patches(built, scenes, seg):
    """But for what regions and 8 bits cost."""
    encoded = {f"{'odd' if i % 2 else 'even'}/{i:02}.png": seg.encode(scene.picture) for i, scene in enumerate(scenes)}
    for word in ("grass", "cat", "car"):
        hits = built.search(word, top=12)
        assert len(hits) == 12 and [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        text = seg.text_embeddings([word])[1][0]
        for hit in hits:
            features = torch.nn.functional.normalize(encoded[hit.path].features().flatten(1), dim=0)
            assert abs(hit.score - float((text @ features).max())) < 0.15
        whole = built.search(word, top=12, by="picture")
        expected = {path: float(each.image.float() @ text) for path, each in encoded.items()}
        assert [hit.score for hit in whole] == pytest.approx([expected[hit.path] for hit in whole], abs=0.005)
        assert paths(whole) == sorted(expected, key=expected.get, reverse=True)


def test_pictures_and_places_that_hold_a_word_come_first(built, scenes):
    right, overlaps = 0, []
    words = sorted({label for scene in scenes for label in scene.labels})
    for word in words:
        hit = built.search(word, top=1)[0]
        scene = scenes[int(hit.file.stem)]
        right += word in scene.labels
        if word in scene.labels:
            truth = scene.label_map == scene.labels.index(word)
            mask = hit.mask()
            overlaps.append((mask & truth).sum() / (mask | truth).sum())
            left, top, right_, bottom = hit.box
            assert 0 <= left < right_ <= 96 and 0 <= top < bottom <= 96 and mask[top:bottom, left:right_].any()
            assert hit.heat().shape == hit.size and np.unravel_index(hit.heat().argmax(), (96, 96)) in zip(
                *map(list, mask.nonzero()), strict=True
            )
    assert right / len(words) > 0.9 and np.mean(overlaps) > 0.6


def test_several_words_synonyms_absence_and_folders(built, scenes):
    both = built.search(["grass", "cat"], top=12)
    alone = {word: {hit.path: hit.score for hit in built.search(word, top=12)} for word in ("grass", "cat", "kitten")}
    for hit in both:
        assert hit.score == pytest.approx(min(alone["grass"][hit.path], alone["cat"][hit.path]), abs=1e-5)
        assert hit.scores == pytest.approx({word: alone[word][hit.path] for word in ("grass", "cat")}, abs=1e-5)
        assert set(hit.boxes) == {"grass", "cat"} and hit.mask("cat").shape == hit.size
    for hit in built.search([["cat", "kitten"]], top=12):
        assert hit.score == pytest.approx(max(alone["cat"][hit.path], alone["kitten"][hit.path]), abs=1e-5)
    for hit in built.search("cat", top=12, without=["grass", "kitten"]):
        away = max(alone["grass"][hit.path], alone["kitten"][hit.path])
        assert hit.score == pytest.approx(alone["cat"][hit.path] - away / 2, abs=1e-5)
    assert paths(built.search("cat", under="odd")) == [p for p in paths(built.search("cat")) if p.startswith("odd/")]
    assert paths(built.search("cat", under="odd/")) == paths(built.search("cat", under="odd/*"))
    assert paths(built.search("cat", under="*/0[12].png")) == [
        p for p in paths(built.search("cat")) if p in ("odd/01.png", "even/02.png")
    ]
    assert built.search("cat", under="od") == []


def test_an_example_finds_its_own_picture(built, scenes, seg):
    for i in (0, 5):
        vector = seg.vector_of(scenes[i].picture, scenes[i].label_map == 0)
        hit = built.search(vector, top=1)[0]
        assert hit.path.endswith(f"{i:02}.png") and set(hit.scores) == {"example"}
        assert built.search({"this": vector}, top=1)[0].scores == pytest.approx({"this": hit.score})


def test_what_cannot_be_asked_is_said(built):
    with pytest.raises(LabelError):
        built.search([])
    with pytest.raises(SettingError, match="expected by='place' or by='picture'"):
        built.search("cat", by="colour")
    with pytest.raises(SettingError, match="top of 1 or more"):
        built.search("cat", top=0)
    with pytest.raises(LabelError, match="width"):
        built.search(torch.ones(7))
    with pytest.raises(LabelError, match="not searched for"):
        built.search("cat")[0].heat("dog")


def test_copies_are_all_found(seg, photos):
    (photos / "copy.png").write_bytes((photos / "00.png").read_bytes())
    index = sp.Index.build(seg, photos, photos / "index")
    word = sp.draw_scene(1_000_000_000, size=(96, 96)).labels[0]
    assert sorted(paths(index.search(word, top=2))) == ["00.png", "copy.png"]
    assert len(index.search(word, top=1)) == 1
    assert paths(index.search(word, under="copy*")) == ["copy.png"]


def test_an_open_index_sees_what_is_added(seg, photos, scenes):
    index = sp.Index.build(seg, photos, photos / "index")
    scenes[0].picture.rotate(90).save(photos / "new.png")
    sp.Index.build(seg, photos, photos / "index")
    assert len(index) == 13 and "new.png" in paths(index.search("cat"))


def test_a_sheet_shows_pictures_with_places_and_leaves_out_what_is_gone(built, seg, photos):
    one = contact_sheet(built.search("cat", top=4))
    two = contact_sheet(built.search(["cat", "grass"], top=4), "cat, grass")
    assert two.height > one.height  # a title, and a legend
    assert len(one.getcolors(2**20)) > 1000
    index = sp.Index.build(seg, photos, photos / "index")
    hits = index.search("cat", top=2)
    hits[0].file.unlink()
    with pytest.warns(UserWarning, match=hits[0].path):
        left = contact_sheet(hits)
    assert left.size == contact_sheet(hits[1:]).size
    hits[1].file.unlink()
    with pytest.raises(PictureError, match="not one of the 2 pictures"):
        contact_sheet(hits, report=lambda reason: None)
    with pytest.raises(SettingError, match="nothing was found"):
        contact_sheet([])


# ---- by codes ------------------------------------------------------------------------------------------------------

WIDTH, EACH = 64, 8


def generated(count, seed):
    """(count, EACH, WIDTH), unit: each near one of 50 directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((50, WIDTH))
    vectors = directions[rng.integers(0, 50, (count, EACH))] + 0.8 * rng.standard_normal((count, EACH, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def put(store, vectors, first=0):
    values, scales = quantised(torch.from_numpy(vectors).flatten(0, 1))
    rows = []
    for i in range(len(vectors)):
        own = slice(i * EACH, (i + 1) * EACH)
        kept = Reduced(np.arange(EACH, dtype=np.uint8)[None], values[own], scales[own], values[own][0], 1.0)
        name = f"{(first + i) % 10}/{first + i}.png"
        rows.append(Row(name, sha256=(first + i).to_bytes(32, "big"), size=(8, 64), kept=kept))
    store.append(lambda: rows)


def question(seed, count=1, absent=0):
    rng = np.random.default_rng([9, seed])
    directions = np.random.default_rng(0).standard_normal((50, WIDTH))[rng.integers(0, 50, count)]
    vectors = directions + rng.standard_normal((count, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Question(tuple(map(str, range(count - absent))), vectors, np.arange(count), np.zeros(count))


@pytest.fixture
def many(tmp_path, monkeypatch):
    """3,000 pictures, of which codes name few."""
    monkeypatch.setattr(searching, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(searching, "CANDIDATES", 512)
    monkeypatch.setattr(searching, "PICTURES_WHOLE", 256)
    store = IndexStore.create(tmp_path / "index", {})
    vectors = generated(3000, 1)
    put(store, vectors[:2000])
    update_codes(store, 1000)
    put(store, vectors[2000:], 2000)
    return store, vectors


@pytest.mark.parametrize(("count", "absent", "under"), [(1, 0, None), (2, 0, None), (3, 1, None), (1, 0, "7")])
def test_codes_find_what_exact_search_finds(many, count, absent, under):
    store, vectors = many
    searcher = Searcher(store)
    recalls = []
    for seed in range(20):
        asked = question(seed, count, absent)
        scores = asked.ranked_by(asked.of_words((vectors @ asked.vectors.T).max(axis=1)))
        if under is not None:
            scores[[i for i in range(3000) if i % 10 != int(under)]] = -9
        expected = np.argsort(-scores)[:10]
        found = searcher.search(asked, 10, under, False)
        recalls.append(len(set(expected.tolist()) & {int(each.path[2:-4]) for each in found}) / 10)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert searcher._codes is not None and np.mean(recalls) >= 0.95


def test_codes_are_kept_grow_and_are_made_anew_where_they_are_gone(many, monkeypatch):
    store, _ = many
    folder = store.folder
    assert [path.name[:12] for path in folder.glob("codes-*")] == ["codes-000001"]
    trained, really = [], nearest._trained
    monkeypatch.setattr(nearest, "_trained", lambda store: trained.append(1) or really(store))
    assert Codes(store).index.ntotal == 3000 * EACH and not trained
    update_codes(store, 1000)
    assert [path.name[:12] for path in folder.glob("codes-*")] == ["codes-000002"] and not trained
    put(store, generated(50, 2), 3000)
    update_codes(store, 1000)  # few: they are added when it is opened
    assert [path.name[:12] for path in folder.glob("codes-*")] == ["codes-000002"] and not trained
    put(store, generated(4000, 3), 4000)
    update_codes(store, 1000)
    assert [path.name[:12] for path in folder.glob("codes-*")] == ["codes-000004"] and trained == [1]
    (path,) = folder.glob("codes-*")
    whole = path.read_bytes()
    for spoilt in (b"broken", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        path.write_bytes(spoilt)
        trained.clear()
        assert Codes(store).index.ntotal == 7050 * EACH and trained == [1]
    path.write_bytes(whole)
    assert not trained.clear() and Codes(store).index.ntotal == 7050 * EACH and not trained
    (folder / "part-000001.arrow").unlink()  # they are no longer the codes of these parts
    assert Codes(IndexStore(folder)).index.ntotal == 6050 * EACH and trained == [1]


def test_a_search_goes_on_where_a_part_was_removed(many):
    store, vectors = many
    searcher, asked = Searcher(store), question(3)
    assert searcher.search(asked, 3000, None, False)[-1].path
    (store.folder / "part-000000.arrow").unlink()
    searcher.refresh()
    left = searcher.search(asked, 3000, None, False)
    assert {int(each.path[2:-4]) for each in left} <= set(range(2000, 3000)) and len(searcher.paths) == 1000
    exact = asked.ranked_by(asked.of_words((vectors[2000:] @ asked.vectors.T).max(axis=1)))
    assert left[0].score == pytest.approx(exact.max(), abs=0.02)


def test_a_picture_that_is_gone_is_not_found_by_its_codes(many):
    store, vectors = many
    asked = question(3)
    best = Searcher(store).search(asked, 3, None, False)
    store.append(lambda: [Row(best[0].path, removed=True)])
    assert [each.path for each in Searcher(store).search(asked, 2, None, False)] == [each.path for each in best[1:]]
