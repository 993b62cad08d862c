"""Which hits hold the word at all."""

import dataclasses

import numpy as np

import sclip_plugin as sp
from sclip_plugin.index.presence import null_of, numbers
from sclip_plugin.index.searching import Question
from sclip_plugin.steps.presence import WORDS, Presence, without


def test_hits_say_whether_the_word_is_there(built, scenes):
    words = sorted({label for scene in scenes for label in scene.labels})
    truth = {f"{'odd' if i % 2 else 'even'}/{i:02}.png": set(scene.labels) for i, scene in enumerate(scenes)}
    right, called, there = 0, 0, 0
    for word in words:
        for hit in built.search(word, top=12):
            present, holds = hit.presence[word] >= 0.5, word in truth[hit.path]
            assert present == hit.is_there
            right, called, there = right + (present and holds), called + present, there + holds
    assert right / there > 0.9 and right / called > 0.75
    assert not any(hit.is_there for hit in built.search("zebra", top=12))


def test_the_numbers_are_those_of_the_rule(built, seg):
    null = null_of(built._searcher, seg)
    rows = built._searcher.rows.tolist()
    mean = np.concatenate([built._searcher.vectors(row) for row in rows]).mean(axis=0)
    mean /= np.linalg.norm(mean)
    np.testing.assert_allclose(null.mean.numpy(), mean, atol=1e-6)
    seen = without(seg.text_embeddings(list(WORDS))[1], null.mean).numpy()
    # Of some 32 regions the highest alone counts.
    peaks = np.concatenate([(built._searcher.vectors(row) @ seen.T).max(axis=0) for row in rows])
    assert abs(null.median - np.sort(peaks)[(len(peaks) - 1) // 2]) < 1e-6
    text = seg.text_embeddings(["cat", "crab"])[1]
    question = Question(("cat", "crab"), text.numpy(), np.array([0, 1]), np.zeros(2), frozenset({1}))
    regions = built._searcher.vectors(rows[0])
    height = ((regions @ without(text[:1], null.mean)[0].numpy()).max() - null.median) / null.spread
    found = numbers(null, regions, question)
    assert np.isclose(found["cat"], 1 / (1 + np.exp(-3 * (height - 3))), atol=1e-5)
    both = numbers(null, regions, Question(("cat",), text.numpy(), np.array([0, 0]), np.zeros(2)))
    assert both["cat"] >= found["cat"], "of synonyms the one that is there"


def test_vectors_and_small_collections_have_no_presence(built, seg, scenes, tmp_path):
    vector = seg.vector_of(scenes[0].picture, scenes[0].label_map == 0)
    assert built.search({"this": vector}, top=1)[0].presence == {}
    (tmp_path / "few").mkdir()
    for index in range(4):
        scenes[index].picture.save(tmp_path / "few" / f"{index}.png")
    few = sp.Index.build(seg, tmp_path / "few", tmp_path / "index")
    assert few.search("zebra")[0].presence is None and few.search("zebra")[0].is_there


def test_the_null_is_kept_for_the_same_pictures_alone(built, seg, scenes, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(6):
        scenes[index].picture.save(tmp_path / "photos" / f"{index}.png")
    index = sp.Index.build(seg, tmp_path / "photos", tmp_path / "index")
    said = index.search("zebra")[0].to_dict()["null"]
    path = tmp_path / "index" / "presence.safetensors"
    kept = path.read_bytes()
    assert said == {"pictures": 6, "identity": Presence.load(path).identity()}
    marked = dataclasses.replace(Presence.load(path), threshold=9.0)
    marked.save(path)
    assert sp.Index(tmp_path / "index", seg).search("zebra")[0].null.threshold == 9.0, "read, not learned again"
    scenes[6].picture.save(tmp_path / "photos" / "6.png")
    more = sp.Index.build(seg, tmp_path / "photos", tmp_path / "index").search("zebra")[0]
    assert more.null.pictures == 7 and more.null.threshold == 2.0
    path.write_bytes(b"broken")
    assert sp.Index(tmp_path / "index", seg).search("zebra")[0].null.pictures == 7 and path.read_bytes() != kept
