"""Steps on patches: what they see of a picture, and what becomes of what they return."""

from __future__ import annotations

import dataclasses

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import NotFiniteError, SettingError, UnknownNameError
from sclip_plugin.settings import Settings
from sclip_plugin.steps import PatchScores, Step, make_step

LABELS = ["cat", ["potted plant", "sofa"], "person"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8))
SEEN: list[PatchScores] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(Step):
    """Scores of a class times a weight, and what was given is kept."""

    on = "patches"
    weight: float = 1.0
    class_index: int = 0

    def __call__(self, given: PatchScores) -> torch.Tensor:
        SEEN.append(given)
        of_class = torch.tensor(given.words.class_of_name) == self.class_index
        return torch.where(of_class, given.scores * self.weight, given.scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probabilities(Step):
    """The softmax, patch by patch."""

    on, gives = "patches", "probability"

    def __call__(self, given: PatchScores) -> torch.Tensor:
        return (given.scores * given.words.logit_scale).softmax(dim=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Step):
    on = "patches"
    wrong: str = "nan"

    def __call__(self, given: PatchScores) -> torch.Tensor:
        return given.scores * torch.nan if self.wrong == "nan" else given.scores[..., :1]


@pytest.fixture(autouse=True)
def _registered(own_registries):
    SEEN.clear()
    for name, cls in (("weighted", Weighted), ("probabilities", Probabilities), ("broken", Broken)):
        sp.register_step(name)(cls)


def test_a_step_that_changes_nothing_changes_nothing(segmenter):
    plain, stepped = segmenter(PICTURE, LABELS), segmenter(PICTURE, LABELS, steps="weighted")
    np.testing.assert_array_equal(stepped.label_map, plain.label_map)
    golden.assert_equal(torch.from_numpy(stepped.scores), torch.from_numpy(plain.scores))


def test_what_a_step_sees(segmenter):
    segmenter(PICTURE, LABELS, steps="weighted")
    (given,) = SEEN
    encoded = segmenter.encode(PICTURE, dtype=torch.float32)
    n = len(encoded.plan)
    assert given.features.shape == (n, 7, 7, 64) and given.scores.shape == (n, 7, 7, 4)
    assert given.words.class_of_name == (0, 1, 1, 2) and given.words.labels == ("cat", "potted plant", "person")
    golden.assert_equal(given.scores, given.features @ given.words.text.T)
    assert torch.allclose(given.features.norm(dim=-1), torch.ones(n, 7, 7), atol=1e-5)
    golden.assert_equal(given.image, encoded.image)
    golden.assert_equal(given.windows, encoded.windows)
    golden.assert_equal(given.words.embed(["cat", "person"]), given.words.text[[0, 3]])
    # Each window's scores are those of that window alone, in the order of the boxes.
    for index in (0, n - 1):
        top, left, height, width = given.boxes[index]
        crop = given.shown.pixels[:, top : top + height, left : left + width]
        alone = segmenter.encode(Image.fromarray(crop.permute(1, 2, 0).numpy()), window=0, resize_short_side=0,
                                 dtype=torch.float32)  # fmt: skip
        golden.assert_equal(given.features[index], alone.vectors)


def test_a_step_after_the_other_and_after_encoding(segmenter):
    steps = ["weighted(weight=0.5)", Weighted(weight=4.0)]
    result = segmenter(PICTURE, LABELS, steps=steps)
    doubled = segmenter(PICTURE, LABELS, steps="weighted(weight=2)")
    np.testing.assert_array_equal(result.label_map, doubled.label_map)
    assert result.settings["steps"] == ["weighted(weight=0.5)", "weighted(weight=4.0)"]
    encoded = segmenter.encode(PICTURE, dtype=torch.float32)
    np.testing.assert_array_equal(encoded.segment(LABELS, steps=steps).label_map, result.label_map)
    assert (result.label_map != segmenter(PICTURE, LABELS).label_map).any()


def test_probabilities_are_taken_as_they_are(segmenter):
    picture = PICTURE.resize((112, 112))
    whole = dict(window=0, resize_short_side=0, logit_scale=20.0)
    result = segmenter(picture, ["cat", "dog"], steps="probabilities", threshold=0.5, **whole)
    cosines = (
        segmenter.encode(picture, dtype=torch.float32, **whole).vectors @ segmenter.text_embeddings(["cat", "dog"])[1].T
    )
    expected = F.interpolate((cosines * 20).softmax(dim=-1).permute(2, 0, 1)[None], size=(112, 112), mode="bilinear")[0]
    golden.assert_equal(torch.from_numpy(result.scores), expected)
    sure = expected.amax(dim=0) >= 0.5
    np.testing.assert_array_equal(result.label_map, torch.where(sure, expected.argmax(dim=0), -1).numpy())


def test_methods_that_depend_on_the_words_take_steps_too(segmenter):
    plain = segmenter(PICTURE, LABELS, method="resclip")
    np.testing.assert_array_equal(
        segmenter(PICTURE, LABELS, method="resclip", steps="weighted").label_map, plain.label_map
    )


@pytest.mark.parametrize("wrong", ["nan", "shape"])
def test_what_is_no_score_is_an_error(segmenter, wrong):
    with pytest.raises(NotFiniteError, match="the step broken"):
        segmenter(PICTURE, LABELS, steps=f"broken(wrong={wrong!r})")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", SettingError), ("weighted(", SettingError), ("weighted(2, 3)", SettingError),
        ("weighted(weight=open('x'))", SettingError), ("1", UnknownNameError), ("a.b", UnknownNameError),
    ],
)  # fmt: skip
def test_texts_that_are_no_step(text, error):
    with pytest.raises(error):
        make_step(text)


def test_names_and_options_are_checked_early():
    with pytest.raises(UnknownNameError, match="Did you mean 'weighted'"):
        Settings(steps=("wieghted",))
    with pytest.raises(UnknownNameError, match="option of weighted 'wieght'"):
        Settings(steps=("weighted(wieght=2)",))
    with pytest.raises(SettingError, match="weight='x'"):
        Settings(steps=("weighted(weight='x')",))


def test_settings_tell_steps_apart():
    texts = [(), ("weighted",), ("weighted(weight=2.0)",), ("weighted", "weighted")]
    identities = {Settings(steps=steps).identity() for steps in texts}
    assert len(identities) == len(texts)
    assert Settings(steps=("weighted(weight=1.0)",)) == Settings(steps=(Weighted(),))
