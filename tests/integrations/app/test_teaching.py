"""What a visitor teaches the page, without a browser: examples, what is learnt of them, limits, the file."""

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, PictureError
from sclip_plugin.memory.examples import IGNORED

pytest.importorskip("gradio", reason="the page is the extra 'app', which CI installs")
from sclip_plugin.integrations.app.commands import command_of, python_of  # noqa: E402
from sclip_plugin.integrations.app.page import MOST_OTHERS, Page, Visit  # noqa: E402
from sclip_plugin.integrations.app.teaching import examples_html, said_of  # noqa: E402
from sclip_plugin.integrations.serve import Limits  # noqa: E402


@pytest.fixture(scope="module")
def page():
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", paths=False)
    return Page(segmenter, "demo", Limits(characters=20, examples=2))


@pytest.fixture(scope="module")
def scene():
    return sp.draw_scene(5, scale=2)


@pytest.fixture
def visit(scene):
    visit = Visit()
    visit.take(scene.picture, "scene.png")
    return visit


def words_of(scene):
    """The scene's labels, but for the first, which is taught."""
    return list(scene.labels[1:])


def test_a_region_and_a_word_teach(page, visit, scene):
    words, truth = words_of(scene), scene.label_map == 0
    page.teach(visit, truth, " zorbl ")
    before = page.segment(visit.picture, words, {}, visit.lessons)
    assert before.labels == tuple(words), "examples are not used before Learn"
    for index in range(1, len(scene.labels)):
        page.teach(visit, scene.label_map == index, scene.labels[index])
    visit.lessons.learnt = True
    after = page.segment(visit.picture, words, {}, visit.lessons)
    assert after.labels == (*words, "zorbl")
    assert (after.label_map == len(words))[truth].mean() > 0.5
    masks = np.array([len(words), *range(len(words))])[scene.label_map]
    expected = page.segmenter.tune([visit.picture], [masks], [*words, "zorbl"])
    np.testing.assert_allclose(dict(visit.lessons.tuned.vectors)[0], dict(expected.vectors)[0], atol=1e-3)


def test_what_was_not_said_is_not_learnt_from(page, visit, scene):
    page.teach(visit, scene.label_map == 0, "background")
    ((_, lesson),) = visit.lessons.of_pictures.items()
    assert (lesson.label_map[scene.label_map != 0] == IGNORED).all()
    visit.lessons.learnt = True
    page.segment(visit.picture, words_of(scene), {}, visit.lessons)
    assert visit.lessons.tuned.report["shares"]["background"] == 1.0


def test_what_was_learnt_is_kept_until_there_are_more_examples_or_other_words(page, visit, scene):
    lessons, words = visit.lessons, words_of(scene)
    page.teach(visit, scene.label_map == 0, "zorbl")
    lessons.learnt = True
    page.segment(visit.picture, words, {}, lessons)
    first = lessons.tuned
    page.segment(visit.picture, words, {"threshold": 0.2}, lessons)
    assert lessons.tuned is first
    page.segment(visit.picture, words, {"method": "naclip"}, lessons)
    assert lessons.tuned.features["method"] != first.features["method"], "another method learns anew"
    page.segment(visit.picture, [*words, "comb"], {}, lessons)
    assert "comb" in lessons.tuned.labels
    version = lessons.version()
    page.teach(visit, scene.label_map == 1, scene.labels[1])
    assert lessons.version() != version
    page.segment(visit.picture, words, {}, lessons)
    assert lessons.tuned.report["pictures"][scene.labels[1]] == 1


def test_a_synonym_teaches_its_class(page, visit, scene):
    page.teach(visit, scene.label_map == 0, "zorbl")
    visit.lessons.learnt = True
    result = page.segment(visit.picture, ["thing|zorbl", scene.labels[1]], {}, visit.lessons)
    assert result.labels == ("thing", scene.labels[1]) and visit.lessons.tuned.report["pictures"]["thing"] == 1


def test_examples_stay_with_the_visitor_and_have_limits(page, visit, scene):
    page.teach(visit, scene.label_map == 0, "zorbl")
    visit.take(sp.draw_scene(6, scale=2).picture)
    page.teach(visit, np.ones(scene.label_map.shape, bool), "zorbl")
    assert "zorbl 2 regions" in examples_html(visit) and "in 2 pictures" in examples_html(visit)
    visit.take(Image.new("RGB", (40, 30)))
    with pytest.raises(PictureError, match="2 pictures have examples"):
        page.teach(visit, np.ones((30, 40), bool), "zorbl")
    with pytest.raises(PictureError, match="nothing is painted"):
        page.teach(visit, np.zeros((30, 40), bool), "zorbl")
    with pytest.raises(PictureError, match="no region is selected"):
        page.teach(visit, None, "zorbl")
    for word in ("", "x" * 21):
        with pytest.raises(LabelError):
            page.teach(visit, np.ones((30, 40), bool), word)
    visit.lessons.forget()
    assert not visit.lessons.words and "No examples" in examples_html(visit)
    visit.lessons.learnt = True
    with pytest.raises(LabelError, match="there are no examples"):
        page.segment(visit.picture, ["cat"], {}, visit.lessons)


def test_the_file_is_what_was_learnt(page, visit, scene):
    with pytest.raises(PictureError, match="nothing is learnt"):
        page.learnt_file(visit)
    page.teach(visit, scene.label_map == 0, "zorbl")
    visit.lessons.learnt = True
    result = page.segment(visit.picture, words_of(scene), {}, visit.lessons)
    assert said_of(visit) == ", learnt from 1 region"
    path = page.learnt_file(visit)
    found = sp.Segmenter.from_pretrained("demo", device="cpu")(visit.picture, sp.Tuned.load(path))
    np.testing.assert_array_equal(found.label_map, result.label_map)
    assert path.name in python_of(page, visit, ["cat"], {}) and f"@{path.name}" in command_of(page, visit, ["cat"], {})


def test_other_pictures_are_reduced_and_bounded(page, visit, tmp_path):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "a.png")
    page.add_others(visit, [(tmp_path / "a.png", "mine.png")])
    assert [(picture.size, name) for picture, name in visit.others] == [((960, 480), "mine.png")]
    with pytest.raises(PictureError, match="at most 12"):
        page.add_others(visit, [(tmp_path / "a.png", "mine.png")] * (MOST_OTHERS + 1))
    assert not visit.others
