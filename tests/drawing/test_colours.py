"""Colours belong to names: whatever the order, the other labels, the picture, the process."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sclip_plugin.demo.scenes import CLASSES
from sclip_plugin.draw import colours
from sclip_plugin.draw.colours import _oklab, colours_of, is_neutral, read_colours
from sclip_plugin.errors import FileFormatError, SettingError
from sclip_plugin.protocols import load_benchmark


def apart(names) -> float:
    """The distance of the two most alike, in OKLab."""
    places = _oklab(colours_of(names))
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2))


@pytest.mark.parametrize("word", ["cat", "potted plant", "crack", "木", "🦊", "", "\ud800"])
def test_a_word_has_one_colour(word):
    own = colours_of([word])[0]
    for others in (["sky"], ["tree", "person", "quokka"], list(CLASSES)):
        labels = [other for other in others if other != word]
        assert (colours_of([*labels, word])[-1] == own).all() and (colours_of([word, *labels])[0] == own).all()


def test_the_order_does_not_matter():
    names = [f"thing {i}" for i in range(40)]
    assert (colours_of(names)[::-1] == colours_of(names[::-1])).all()


def test_ways_to_write_a_word_have_one_colour():
    assert len(np.unique(colours_of(["pottedplant", "potted plant", "Potted-Plant", "potted_plant"]), axis=0)) == 1


def test_another_process_gives_the_same():
    code = "from sclip_plugin.draw.colours import colours_of; print(colours_of(['cat', 'quokka', 'crack']).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(colours_of(["cat", "quokka", "crack"]).tolist())


@pytest.mark.parametrize(
    "names", [load_benchmark("voc21").class_names, load_benchmark("cityscapes").class_names, CLASSES]
)
def test_common_words_can_be_told_apart(names):
    assert apart([name for name in names if not is_neutral(name)]) > 0.03


PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]


def seen_with(defect, colours):
    """What a colour-blind person sees (Machado et al. 2009)."""
    values = np.asarray(colours, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    shown = (linear @ np.array(defect).T).clip(0, 1)
    return 255 * np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "names", [load_benchmark("voc21").class_names, load_benchmark("cityscapes").class_names, CLASSES]
)
@pytest.mark.parametrize("defect", [PROTANOPIA, DEUTERANOPIA])
def test_the_colour_blind_tell_common_words_apart(names, defect):
    places = _oklab(seen_with(defect, colours_of([name for name in names if not is_neutral(name)])))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(len(places), 1)]
    assert distances.min() > 0.04


def test_no_common_word_is_nearly_black():
    names = [*CLASSES, *load_benchmark("voc21").class_names, "ball", "clock", "train", "ship", "table", "vase"]
    assert _oklab(colours_of([name for name in names if not is_neutral(name)]))[:, 0].min() > 0.42


def test_few_pairs_of_other_words_look_alike():
    places = _oklab(colours_of([f"word {i}" for i in range(200)]))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(200, 1)]
    assert (apart < 0.05).mean() < 0.04


def test_other_words_do_not_look_like_the_commonest():
    common = _oklab(colours_of(["person", "cat", "dog", "grass", "sky", "car", "tree", "water", "building", "road"]))
    others = _oklab(colours_of([f"word {i}" for i in range(200)]))
    assert np.median(np.linalg.norm(others[:, None] - common[None], axis=2).min(axis=1)) > 0.08


def test_of_two_colours_the_one_less_like_the_commonest_words_is_taken():
    words = (Path(colours.__file__).parent / "assets/colours.txt").read_text(encoding="utf-8").splitlines()
    common = _oklab(colours_of([line.split(maxsplit=1)[1] for line in words if not line.startswith("#")][:20]))
    candidates = colours._candidates()
    for word in (f"word{i}" for i in range(20)):
        pair = candidates[[colours._hash(word, number) % len(candidates) for number in (0, 1)]]
        first, second = (np.linalg.norm(_oklab(one[None]) - common, axis=1).min() for one in pair)
        assert (colours_of([word])[0] == pair[int(second > first)]).all(), word


def test_no_colour_is_grey_but_backgrounds():
    names = [*CLASSES, *(f"word {i}" for i in range(200))]
    colours = colours_of(names).astype(int)
    assert (np.ptp(colours, axis=1) >= 12).all()
    assert np.ptp(colours_of(["background", "void"])) == 0


def test_changing_what_is_returned_changes_nothing_for_others():
    colours_of(["cat"])[:] = 0
    assert colours_of(["cat"]).any()


class TestGivenColours:
    def test_they_take_the_place_of_a_words_own(self):
        given = colours_of(["Cat", "dog", "background"], {"cat": "#010203", "background": [9, 9, 9], "cow": "red"})
        assert given.tolist() == [[1, 2, 3], colours_of(["dog"])[0].tolist(), [9, 9, 9]]

    @pytest.mark.parametrize(
        "text", ['cat: "#010203"\nsky: [4, 5, 6]\ntree: navy\n', '{"cat": "#010203", "sky": [4, 5, 6], "tree": "navy"}']
    )
    def test_they_are_read_from_a_file(self, tmp_path, text):
        (tmp_path / "colours.yaml").write_text(text)
        assert read_colours(tmp_path / "colours.yaml") == {"cat": (1, 2, 3), "sky": (4, 5, 6), "tree": (0, 0, 128)}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("- cat", "line a name"),
            ("cat: rot", "'rot' is no colour"),
            ("cat: [1, 2]", "no colour"),
            ("cat: [1, 2, 300]", "no colour"),
            ("cat: 7", "no colour"),
            ("1: red", "line a name"),
        ],
    )
    def test_what_is_no_colour_is_said(self, tmp_path, text, words):
        (tmp_path / "colours.yaml").write_text(text)
        with pytest.raises(SettingError, match=words):
            read_colours(tmp_path / "colours.yaml")

    def test_what_is_no_file_of_colours_is_said(self, tmp_path):
        (tmp_path / "colours.yaml").write_text("a: [")
        with pytest.raises(FileFormatError, match="colours.yaml"):
            read_colours(tmp_path / "colours.yaml")
