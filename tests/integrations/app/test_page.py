"""What the page does, without a browser: visitors, questions, edits, limits, commands that do the same."""

import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, PictureError

pytest.importorskip("gradio", reason="the page is the extra 'app', which CI installs")
from sclip_plugin.integrations.app.commands import command_of, python_of  # noqa: E402
from sclip_plugin.integrations.app.page import Page, Visit, fitted, outlined  # noqa: E402
from sclip_plugin.integrations.serve import Limits  # noqa: E402


@pytest.fixture(scope="module")
def page():
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", paths=False)
    return Page(segmenter, "demo", Limits(kept=2, names=12, characters=20, megapixels=1))


@pytest.fixture
def visit(page):
    visit = Visit()
    words = page.draw(visit)
    visit.answer(page.segment(visit.picture, words, {}))
    return visit


def test_an_answer_is_that_of_a_call_and_the_tower_works_once(page, visit, monkeypatch):
    words = list(visit.result.labels)
    expected = sp.Segmenter.from_pretrained("demo", device="cpu")(
        visit.picture, words, refine="pamr(steps=2)", threshold=0.5
    )
    monkeypatch.setattr(page.segmenter, "encode", None)
    again = page.segment(visit.picture, words, {"refine": "pamr(steps=2)", "threshold": 0.5})
    np.testing.assert_array_equal(again.label_map, expected.label_map)


def test_the_pictures_seen_last_are_kept(page):
    for colour in ("red", "green", "blue"):
        page.segment(Image.new("RGB", (40, 30), colour), ["cat"], {})
    assert len(page._seen) == 2


def test_methods_that_name_weights_are_not_offered(page):
    assert {"csa", "naclip", "resclip", "gem"} <= set(page.methods)
    assert not {"proxyclip", "trident", "corrclip", "dinoiser", "textregion"} & set(page.methods)
    for method in page.methods:
        assert page.segment(sp.draw_scene(0).picture, ["cat", "dog"], {"method": method}).size == (144, 216)


@pytest.mark.parametrize("words", [[], [""], ["a" * 21], [str(i) for i in range(13)]])
def test_words_have_limits(page, words):
    with pytest.raises(LabelError):
        page.segment(Image.new("RGB", (40, 30)), words, {})


def test_words_are_never_files(page, tmp_path):
    (tmp_path / "a.txt").write_text("cat")
    result = page.segment(Image.new("RGB", (40, 30)), ["@a.txt", "/etc/hosts"], {})
    assert result.labels == ("@a.txt", "/etc/hosts")


@pytest.mark.parametrize(("data", "said"), [(b"no picture", "cannot be read"), (b"0" * 51_000_000, "50 MB")])
def test_a_refused_picture_clears_what_was_there_and_leaves_the_reason(page, visit, tmp_path, data, said):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match=said):
        page.open(visit, tmp_path / "a.png", "a.png")
    assert visit.picture is None and visit.result is None and said in visit.refusal
    scene = sp.draw_scene(0).picture
    scene.save(tmp_path / "a.png")
    page.open(visit, tmp_path / "a.png", "a.png")
    assert visit.picture.size == scene.size and not visit.refusal


def test_edits_stay_with_the_picture_and_the_selection_with_the_answer(page, visit):
    words = list(visit.result.labels)
    page.select(visit, 0, 0)
    renamed = visit.selected
    page.edit(visit, "wombat")
    y, x = np.argwhere(~renamed)[0]
    page.select(visit, int(x), int(y))
    hidden = visit.selected
    page.edit(visit, None)
    page.select(visit, 0, 0)
    visit.answer(page.segment(visit.picture, [*words, "kite"], {}))
    assert visit.selected is None
    assert (visit.shown.mask("wombat") == renamed).all() and (visit.shown.label_map[hidden] == -1).all()
    page.draw(visit)
    assert not visit.edits and visit.result is None


def test_regions_are_selected_renamed_hidden_and_come_back(page, visit):
    label_map = visit.result.label_map
    index = np.unique(label_map)[-1]
    y, x = np.argwhere(label_map == index)[0]
    place = page.select(visit, int(x), int(y))
    assert place.label == visit.result.labels[index] and len(place.best) == 5
    assert [score for _, score in place.best] == sorted((score for _, score in place.best), reverse=True)
    assert np.isclose(place.best[0][1], visit.result.scores[:, y, x].max())
    assert (label_map[visit.selected] == index).all() and place.area == visit.selected.mean()
    assert (np.asarray(outlined(visit.picture, visit.selected)) == 255).all(axis=2)[visit.selected].any()
    region = visit.selected
    page.edit(visit, "wombat")
    assert visit.shown.labels[-1] == "wombat" and (visit.shown.mask("wombat") == region).all()
    assert visit.selected is None
    page.select(visit, int(x), int(y))
    page.edit(visit, None)
    assert (visit.shown.label_map[region] == -1).all()
    visit.edits.clear()
    np.testing.assert_array_equal(visit.shown.label_map, label_map)
    assert page.select(visit, -1, 0) is None and page.select(visit, 10**6, 0) is None


def test_an_edit_needs_a_region_and_a_word(page, visit):
    with pytest.raises(PictureError, match="click one"):
        page.edit(visit, None)
    page.select(visit, 0, 0)
    with pytest.raises(LabelError):
        page.edit(visit, " ")


def test_downloads_are_one_file(page, visit):
    single = page.export(visit, "geojson")
    assert single.suffix == ".geojson" and single.is_file()
    several = page.export(visit, "png")
    assert not single.exists()
    names = zipfile.ZipFile(several).namelist()
    assert len(names) >= len([share for share in visit.shown.areas().values() if share])


def test_the_commands_do_the_same(page, visit, tmp_path):
    words, changes = ["cat", "sofa|couch"], {"method": "naclip", "refine": True, "threshold": 0.2}
    visit.take(visit.picture, "it's.png")
    result = page.segment(visit.picture, words, changes)
    visit.picture.save(tmp_path / "it's.png")
    program = python_of(page, visit, words, changes) + "import numpy\nnumpy.save('map.npy', result.label_map)\n"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), result.label_map)
    command = shlex.split(command_of(page, visit, words, changes))
    subprocess.run([sys.executable, "-m", "sclip_plugin", *command[1:]], cwd=tmp_path, check=True)
    written = sp.Segmentation.load(tmp_path / "out", "it's")
    np.testing.assert_array_equal(written.label_map, result.label_map)


def test_pictures_are_shown_at_a_size_to_be_looked_at():
    for size, scale, shown in (
        ((300, 200), 3, (900, 600)),
        ((640, 2), 1, (640, 2)),
        ((1600, 900), 1, (1600, 900)),
        ((4000, 3000), 0.4, (1600, 1200)),
        ((10_000, 2), 0.16, (1600, 1)),
    ):
        picture, factor = fitted(Image.new("RGB", size))
        assert factor == scale and picture.size == shown


def test_what_is_here_adds_names_to_the_words(page):
    import gradio as gr
    from sclip_plugin.integrations.app.segmenting import SegmentTab

    with gr.Blocks():
        tab = SegmentTab(page)
    visit = Visit()
    with pytest.raises(PictureError, match="no picture"):
        tab.found(visit, [], "csa")
    page.draw(visit)
    names = page.names(visit.picture, {})
    assert names == [name.word for name in page.segmenter.names(visit.picture)] and names
    update = tab.found(visit, ["zebra", names[0]], page.own("method"))
    assert update[tab.offer] == {"before": ["zebra", names[0]], "words": ["zebra", *names]}
    assert visit.offered == [] and update["note"].startswith("Found: ")
    assert tab.found(visit, [], page.own("method"))[tab.offer]["words"] == names == visit.offered


def test_auto_is_no_word_and_its_files_are_not_read(page, visit):
    result = page.segment(visit.picture, ["@auto", "zebra"], {})
    assert result.labels[0] == "zebra" and len(result.labels) > 2
    with pytest.raises(LabelError, match="whoever started"):
        page.segment(visit.picture, ["@auto:/etc/hosts"], {})
