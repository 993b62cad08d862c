"""Retrieve and Segment against its authors' arrays, and as a step."""

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.errors import SettingError
from sclip_plugin.memory.examples import Cells
from sclip_plugin.steps.rns import Bank, averaged, bank_of, retrieved, trained, training_of

TAGS = {
    "full.90x150": {}, "full.150x182": {}, "one": {}, "no_pictures": {}, "no_words": {"uniform": True},
    "no_text": {"neighbours": 2, "text": None}, "regions": {},
}  # fmt: skip


def arrays(tag):
    """The group's bank and words, and the tag's arrays."""
    found, group = golden.arrays("RNS"), tag.partition(".")[0]
    own = {key.removeprefix(f"{tag}."): value for key, value in found.items() if key.startswith(f"{tag}.")}
    rows = found[f"{group}.bank"].view(-1, 5, 64)
    shown = rows.norm(dim=2) > 0
    shown[:, found[f"{group}.without_pictures"].long()] = False
    rows = rows * shown[..., None]
    return Bank(rows, shown), found[f"{group}.textual"], {**own, "visual": found[f"{group}.visual"]}


@pytest.mark.parametrize("tag", TAGS)
class TestGolden:
    def test_what_is_retrieved(self, tag):
        bank, _, own = arrays(tag)
        found = retrieved(own["queries"], bank, TAGS[tag].get("neighbours", 4))
        assert torch.equal(found.sort(dim=1).values, own["rows"].long().sort(dim=1).values)

    def test_what_is_trained_on(self, tag):
        bank, text, own = arrays(tag)
        options = {"text": text, "neighbours": 4, "temperature": 10.0, **TAGS[tag]}
        training = training_of(own["queries"], bank, **options)
        assert list(training.counts) == own["train.counts"].tolist()
        golden.assert_equal(training.features, own["train.features"])
        golden.assert_equal(training.targets, own["train.labels"])

    def test_what_is_learnt(self, tag):
        bank, text, own = arrays(tag)
        options = {"text": text, "neighbours": 4, "temperature": 10.0, **TAGS[tag]}
        weight, bias = trained(training_of(own["queries"], bank, **options), own["start"], 700)
        golden.assert_equal(weight, own["weight"], 5e-5)
        golden.assert_equal(bias, own["bias"], 5e-5)
        golden.assert_equal(F.linear(own["queries"], weight, bias).softmax(dim=1), own["probs"], 5e-5)


@pytest.mark.parametrize("steps", [1, 10])
def test_the_first_steps(steps):
    bank, text, own = arrays("full.90x150")
    _, _, after = arrays(f"full.steps{steps}")
    weight, bias = trained(training_of(own["queries"], bank, text, 4, 10.0), after["start"], steps)
    golden.assert_equal(weight, after["weight"])
    golden.assert_equal(bias, after["bias"])


def test_a_row_is_the_mean_of_a_class_in_a_picture():
    features = torch.eye(4)[:3]
    shares = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the last: unlabelled
    cells = Cells(features.half(), shares.half(), (("a", 2), ("b", 1)))
    bank = bank_of(cells, [0, None, 1])
    assert bank.shown.tolist() == [[True, False, True], [False, False, False]]
    golden.assert_equal(bank.rows[0, 0], F.normalize(torch.tensor([0.5, 1.0, 0, 0]), dim=0))
    golden.assert_equal(bank.visual[2], torch.eye(4)[0])


def test_windows_are_averaged_on_the_pictures_grid():
    windows = F.normalize(torch.randn(2, 2, 3, 5), dim=3)
    found, cells = averaged(windows, [(0, 0, 32, 48), (0, 16, 32, 48)], (16, 16))
    assert found.shape == (8, 5) and cells.shape == (2, 2, 3)
    golden.assert_equal(found[cells[0, 1, 2]], F.normalize(windows[0, 1, 2] + windows[1, 1, 1], dim=0))
    golden.assert_equal(found[cells[0, 0, 0]], windows[0, 0, 0])
    assert cells[0, 1, 2] == cells[1, 1, 1]


class TestTheStep:
    @pytest.fixture(scope="class")
    def demo(self):
        return sp.Segmenter.from_pretrained("demo", device="cpu", templates="plain")

    @pytest.fixture(scope="class")
    def file(self, demo, tmp_path_factory):
        scene = sp.draw_scene(seed=5)
        path = tmp_path_factory.mktemp("rns") / "mine.safetensors"
        demo.tune([scene.picture], [scene.label_map], list(scene.labels)).save(path)
        return path

    def test_it_finds_what_the_examples_show(self, demo, file):
        scene = sp.draw_scene(seed=5)
        names = ["zorbl", *scene.labels[1:]]
        tuned = demo.tune([scene.picture], [scene.label_map], names)
        tuned.save(file.with_name("renamed.safetensors"))
        step = f"rns('{file.with_name('renamed.safetensors')}', temperature=0)"
        before, after = (demo(scene.picture, names, steps=steps).label_map for steps in ((), step))
        truth = scene.label_map == 0
        assert (after == 0)[truth].mean() > 0.5 > (before == 0)[truth].mean()
        again = demo(scene.picture, names, steps=step)
        np.testing.assert_array_equal(after, again.label_map)  # it sets a seed
        np.testing.assert_allclose(again.scores.sum(axis=0), 1, atol=1e-4)

    def test_names_of_a_class_have_its_probability(self, demo, file):
        scene = sp.draw_scene(seed=5)
        several = [[label, f"a {label}"] for label in scene.labels]
        plain, more = (
            demo(scene.picture, labels, steps=f"rns('{file}', iterations=20)").scores
            for labels in (list(scene.labels), several)
        )
        np.testing.assert_allclose(plain, more, atol=1e-5)

    def test_what_it_needs(self, demo, file, tmp_path):
        with pytest.raises(SettingError, match="no examples; expected"):
            demo(sp.draw_scene(5).picture, ["cat"], steps=f"rns('{tmp_path / 'none.safetensors'}')")
        with pytest.raises(SettingError, match="show none of comb"):
            demo(sp.draw_scene(5).picture, ["comb"], steps=f"rns('{file}')")
