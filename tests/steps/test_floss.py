"""FLOSS against its authors' arrays, and as a step."""

import dataclasses

import golden
import numpy as np
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, PictureError, SettingError
from sclip_plugin.steps.base import Words
from sclip_plugin.steps.floss import Counted, Ranking, banks_of, fused, fused_windows, of_templates
from sclip_plugin.text.labels import parse_labels

NAMES = ["background", "cat", "dog", "person", "plant"]
VOCABULARY = parse_labels(NAMES)


@pytest.fixture(scope="module")
def seg():
    how = {"method": "naclip(std=5.0)", "window": 112, "stride": 56, "resize_short_side": 0, "logit_scale": 100.0}
    return sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, **how)


def encoded(seg, number):
    pixels = golden.arrays("FLOSS")[f"picture{number}"][0]
    size = (pixels.shape[1] + 21, pixels.shape[2] + 33)
    return seg.encode(golden.prepared(pixels, size), dtype=torch.float32)


def given(seg, number):
    """What the step is given of a picture."""
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watch(sp.Step):
        on = "patches"

        def __call__(self, given):
            seen.append(given)
            return given.scores

    words = {name: golden.arrays("FLOSS")["plain.text"][i] for i, name in enumerate(NAMES)}
    encoded(seg, number).segment(words, steps=[Watch()])
    return dataclasses.replace(seen[0], words=dataclasses.replace(seen[0].words, vocabulary=VOCABULARY))


class TestGolden:
    def test_ranking(self, seg):
        arrays = golden.arrays("FLOSS")
        counted = Counted.of(80, 5)
        for number in range(3):
            counted.add(arrays["text.templates"], encoded(seg, number), VOCABULARY, 100.0)
        entropy, share = counted.means()
        golden.assert_equal(entropy.nan_to_num(0).float(), arrays["entropy"], 1e-4)
        golden.assert_equal(100 * share.float(), arrays["pixel_percentage"], 1e-4)
        ranking = Ranking(tuple(map(str, range(80))), entropy, share, tuple(NAMES))
        for count in (4, 1):
            best = [[int(template) for template in ranking.best(name, count)] for name in NAMES]
            assert best == arrays[f"top{count}.experts"].tolist()

    @pytest.mark.parametrize("count", [4, 1])
    def test_texts(self, count):
        arrays = golden.arrays("FLOSS")
        banks = banks_of(arrays["text.templates"], arrays[f"top{count}.experts"].tolist(), arrays["plain.text"])
        golden.assert_equal(banks, arrays[f"top{count}.text"])

    @pytest.mark.parametrize("tag", ["top4.picture0", "top4.picture1", "top1.picture0", "top1.picture1"])
    def test_fusion(self, seg, tag):
        arrays, (top, _, picture) = golden.arrays("FLOSS"), tag.partition(".")
        shown = given(seg, int(picture[-1]))
        banks = arrays[f"{top}.text"]
        whole = fused_windows(shown, banks)
        golden.assert_equal(golden.every_fourth(whole.full().permute(2, 0, 1)[None]), arrays[f"{tag}.fused.every4"])
        one = dataclasses.replace(shown, features=shown.features[:1], boxes=shown.boxes[:1])
        window = fused_windows(one, banks).full().permute(2, 0, 1)[None]
        golden.assert_equal(golden.every_fourth(window), arrays[f"{tag}.window.every4"])
        labels = arrays[f"{tag}.labels"][0]
        assert (whole.resized(tuple(labels.shape)).full().argmax(dim=2) == labels).float().mean() >= 0.9999


def test_who_speaks():
    of_name = torch.tensor([0, 1, 1])
    banks = torch.tensor([
        [[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]],  # both experts say their own class: the surer one
        [[0.2, 0.8, 0.0], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]],  # neither: the ordinary bank
        [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.0, 1.0, 0.0]],  # the first alone, though the ordinary one is surer
    ])  # fmt: skip
    assert torch.equal(fused(banks, of_name), torch.stack([banks[0, 1], banks[1, 2], banks[2, 0]]))


def test_texts_of_templates():
    calls = []

    def embed(prompts, templates):
        calls.append((prompts, templates))
        return torch.arange(len(prompts)).float()[:, None]

    words = Words(parse_labels({"cat": ["cat", np.ones(1)], "dog": "dog"}), torch.full((3, 1), 9.0), (), 1.0, embed)
    text = of_templates(words, ["a {}.", "{}!"])
    assert calls == [(["a cat.", "a dog.", "cat!", "dog!"], ("{}",))]
    assert text[..., 0].tolist() == [[0, 9, 1], [2, 9, 3]]
    assert banks_of(text, [[], [1]], words.text)[:, :, 0].tolist()[0] == [9, 9, 9]


class TestTheStep:
    @pytest.fixture(scope="class")
    def demo(self):
        templates = ["a photo of a {}.", "a drawing of a {}.", "{}"]
        return sp.Segmenter.from_pretrained("demo", device="cpu", cache_dir=False, templates=templates, present=False)

    @pytest.fixture(scope="class")
    def scene(self):
        return sp.draw_scene(seed=5)

    @pytest.fixture(scope="class")
    def ranking(self, demo, scene):
        return Ranking.build(demo, [scene.picture, sp.draw_scene(seed=6).picture], list(scene.labels))

    @pytest.fixture(scope="class")
    def file(self, ranking, tmp_path_factory):
        path = tmp_path_factory.mktemp("floss") / "mine.json"
        ranking.save(path)
        return path

    def test_a_file_is_what_was_ranked(self, ranking, file):
        again = Ranking.load(file)
        assert again.pictures == 2 and again.classes == ranking.classes and again.templates == ranking.templates
        torch.testing.assert_close(again.entropy, ranking.entropy, equal_nan=True)
        assert torch.equal(again.share.nan_to_num(), ranking.share * ~ranking.entropy.isnan())

    def test_it_segments(self, demo, scene, file):
        plain, after, logits = (
            demo(scene.picture, list(scene.labels), steps=steps)
            for steps in ((), f"floss('{file}')", f"floss('{file}', resize='cosines', experts=3)")
        )
        right = [(result.label_map == scene.label_map).mean() for result in (plain, after, logits)]
        assert right[1] > right[0] - 0.15 and right[2] > right[0] - 0.05
        np.testing.assert_allclose(after.scores.sum(axis=0), 1, atol=1e-4)

    def test_with_one_template_cosines_give_the_ordinary_labels(self, demo, scene, tmp_path):
        Ranking.build(demo, [scene.picture], list(scene.labels), templates=["a {}."]).save(tmp_path / "one.json")
        how = {"templates": ["a {}."], "resize_short_side": 0, "window": 0}
        step = f"floss('{tmp_path / 'one.json'}', resize='cosines')"
        plain, after = (demo(scene.picture, list(scene.labels), steps=steps, **how) for steps in ((), step))
        np.testing.assert_array_equal(plain.label_map, after.label_map)
        np.testing.assert_allclose(plain.scores, after.scores, atol=1e-5)

    def test_synonyms_take_the_classs_templates(self, demo, scene, file):
        several = {label: [label, f"big {label}"] for label in scene.labels}
        assert demo(scene.picture, several, steps=f"floss('{file}')").labels == scene.labels

    def test_what_it_needs(self, demo, scene, file, tmp_path, monkeypatch):
        with pytest.raises(SettingError, match="is no file; expected floss"):
            demo(scene.picture, ["cat"], steps=f"floss('{tmp_path / 'none.json'}')")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SettingError, match="is no file; expected floss"):
            demo(scene.picture, ["cat"], steps="floss")
        with pytest.raises(SettingError, match="for none of comb"):
            demo(scene.picture, ["comb"], steps=f"floss('{file}')")
        with pytest.raises(SettingError, match="'surgery' follows one that gives pixels"):
            demo(scene.picture, list(scene.labels), steps=f"floss('{file}'), surgery")
        with pytest.raises(PictureError, match="no unlabelled pictures"):
            Ranking.build(demo, [], ["cat"])

    @pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other"}', "no JSON"])
    def test_broken_files(self, text, tmp_path):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(FileFormatError, match="mine.json"):
            Ranking.load(tmp_path / "mine.json")

    def test_another_ranking_is_another_identity(self, demo, ranking, file, tmp_path):
        dataclasses.replace(ranking, entropy=ranking.entropy + 1).save(tmp_path / "other.json")
        names = (f"floss('{path}')" for path in (file, tmp_path / "other.json"))
        assert len({demo.identity(["cat"], steps=steps) for steps in names}) == 2

    def test_video_smooths_its_probabilities(self, demo, scene, file):
        frames = [scene.picture, sp.draw_scene(seed=6).picture]
        step = f"floss('{file}')"
        plain = [result.scores for result in demo.stream(frames, list(scene.labels), steps=step)]
        smooth = list(demo.stream(frames, list(scene.labels), steps=step, smoothing=0.25))[1].scores
        np.testing.assert_allclose(smooth, 0.25 * plain[0] + 0.75 * plain[1], atol=1e-5)
