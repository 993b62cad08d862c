"""Settings: one list for every surface, checked wherever they come from, and told apart to the last option."""

import copy
import dataclasses
import pickle

import golden
import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, NotFiniteError, SettingError, UnknownNameError
from sclip_plugin.methods import Method, make_method
from sclip_plugin.settings import Settings

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"stride": 0}, "stride=0; expected a whole number from 1"),
        ({"window": "abc"}, "window='abc'; expected a whole number from 0"),
        ({"window": 40.5}, "expected a whole number"),
        ({"window": True}, "expected a whole number"),
        ({"window": 40, "stride": 41}, "stride=41 is larger than window=40"),
        ({"steps": "pamr(2.5)"}, "expected a whole number from 1 to 1000"),
        ({"steps": f"pamr({10**9})"}, "expected a whole number from 1 to 1000"),
        ({"steps": "pamr(dilations=())"}, "expected 1 to 16 distances"),
        ({"steps": "pamr(dilations='8,16')"}, "expected a list of whole numbers"),
        ({"logit_scale": float("nan")}, "expected a number above 0"),
        ({"logit_scale": float("inf")}, "expected a number above 0"),
        ({"logit_scale": 0}, "expected a number above 0"),
        ({"steps": "benchmark(prob=True)"}, "expected a number from 0 to 1"),
        ({"threshold": 1.5}, "expected a number from 0 to 1"),
        ({"background": "yes"}, "expected True or False"),
        ({"method": "csa", "temperature": float("inf")}, "csa got temperature=inf; expected a number above 0"),
        (
            {"method": "scclip", "lof_contamination": -1},
            "scclip got lof_contamination=-1; expected a number from 0 to 1",
        ),
        ({"method": "gem", "depth": 1}, "gem got depth=1; expected a whole number, 2 or more"),
        ({"method": "naclip", "std": "wide"}, "naclip got std='wide'; expected a number above 0"),
        ({"method": "csa", "residual": 1}, "expected True or False"),
        ({"method": "csa", "position_resize": "bigger"}, "expected 'scale_factor' or 'size' or 'size_antialias'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(segmenter, given, says):
    with pytest.raises(SettingError) as caught:
        segmenter(PICTURE, ["cat"], **given)
    assert says in str(caught.value)
    assert isinstance(caught.value, (sp.SclipError, ValueError))


def test_every_setting_says_what_it_is():
    for field in dataclasses.fields(Settings):
        assert field.metadata["help"], field.name
        assert f"        {field.name}: " in Settings.__doc__, field.name


def test_settings_are_few():
    """What acts on scores or labels is a step; what one paper needs is an option of its method or step."""
    assert len(dataclasses.fields(Settings)) <= 16


def test_values_take_the_form_of_their_type():
    settings = Settings(logit_scale=np.int64(50), window=np.int32(96), steps=["pamr(dilations=[1, 2])", "threshold(1)"])
    assert (settings.logit_scale, settings.window, settings.make_steps()[0].dilations) == (50.0, 96, (1, 2))
    assert type(settings.logit_scale) is float and type(settings.window) is int
    assert settings.steps == ("pamr(dilations=(1, 2))", "threshold(probability=1.0)")


def test_the_long_side_has_a_limit(segmenter):
    """50 x 100 pixels to a short side of 64: 64 x 128, of which a long side of 96 leaves 48 x 96."""
    picture = Image.new("RGB", (100, 50))
    given = {"resize_short_side": 64, "window": 0}
    assert segmenter.encode(picture, **given).vectors.shape[:2] == (4, 8)
    encoded = segmenter.encode(picture, resize_long_side=96, **given)
    assert encoded.vectors.shape[:2] == (3, 6)
    with pytest.raises(SettingError, match="resize_long_side"):
        encoded.segment(["cat"], resize_long_side=128)


def test_the_stride_follows_the_window():
    settings = Settings(window=224, stride=112)
    assert settings.changed(window=40).window_stride == 20
    assert settings.changed(window=40, stride=10).window_stride == 10
    assert settings.changed(logit_scale=50).window_stride == 112
    assert settings.changed(window=1).window_stride == 1


def test_every_pixel_is_seen_whatever_the_window(segmenter):
    result = segmenter(PICTURE, ["cat", "dog"], window=40)
    assert np.isfinite(result.scores).all()


def test_a_setting_and_an_option_of_one_name():
    """`logit_scale` is a setting, and an option of resclip: the setting, unless the method's text has the option."""
    settings = Settings().changed(method="resclip", logit_scale=77)
    text = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    said = {"text": text, "logit_scale": settings.logit_scale, "image_mean": None, "image_std": None}
    assert settings.logit_scale == 77 and settings.make_method().bind(**said).logit_scale == 77
    own = settings.changed(method="resclip(logit_scale=5)")
    assert own.logit_scale == 77 and own.make_method().bind(**said).logit_scale == 5


def test_another_method_starts_with_its_own_options():
    settings = Settings(method="naclip(std=2)")
    assert settings.changed(window=0).method_options == {"std": 2.0}
    assert settings.changed(temperature=2.0).method_options == {"std": 2.0, "temperature": 2.0}
    assert settings.changed(method="naclip").method_options == {}


def test_a_method_in_hand_becomes_its_text():
    settings = Settings(method=make_method("naclip", {"std": 3.0}))
    assert (settings.method, settings.method_name) == ("naclip(std=3.0)", "naclip")
    assert settings.method_options == {"std": 3.0}
    assert Settings(method="sclip").method == "csa"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Unregistered(Method):
        strength: float = 1.0

    own = Settings(method=Unregistered(strength=2))
    assert own.make_method() == Unregistered(strength=2.0)
    assert own.changed(strength=3.0).make_method().strength == 3.0
    assert own.identity() != own.changed(strength=3.0).identity()


def test_a_method_that_holds_a_model_keeps_it(own_registries):
    @sp.register_method("holds-a-model")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Holds(Method):
        encoder: torch.nn.Module = dataclasses.field(compare=False)

    method = Holds(encoder=torch.nn.Linear(2, 2))
    settings = Settings(method=method)
    assert settings.changed(window=0).make_method().encoder is method.encoder
    assert settings.identity() != Settings(method=Holds(encoder=torch.nn.Linear(2, 2))).identity()


def test_identity_is_lossless_and_plain_is_for_people():
    four = [f"{word} {{}}" for word in ("a", "the", "one", "this")]
    first, second = Settings(templates=four), Settings(templates=[*four[:3], "that {}"])
    assert first.plain() == second.plain()
    assert first.identity() != second.identity()
    assert first.identity() == Settings(templates=tuple(four), stride=112).identity()
    assert Settings().identity() != Settings(method="csa(projections=('q',))").identity()


def test_settings_are_values():
    settings = Settings(method="naclip(std=2)")
    for other in (copy.deepcopy(settings), pickle.loads(pickle.dumps(settings)), settings.changed()):
        assert other == settings
    with pytest.raises(TypeError):
        settings.method_options["std"] = 3


def test_settings_beside_keywords(segmenter):
    settings = Settings(window=64, templates="plain")
    result = segmenter(PICTURE, ["cat", "dog"], settings, method="naclip")
    assert result.settings["window"] == 64 and result.settings["method"] == "naclip"
    with pytest.raises(TypeError, match="Settings"):
        segmenter(PICTURE, ["cat"], {"window": 64})


def test_a_preset_with_background():
    model, tokenizer = golden.model("open_clip"), golden.tokenizer_of("open_clip")
    options = {"cache_dir": False, "templates": "plain"}
    assert (
        "background" in sp.Segmenter(model, tokenizer, preset="sclip/voc20", background=True, **options)(PICTURE).labels
    )
    with pytest.raises(LabelError, match="'background' is given twice"):
        sp.Segmenter(model, tokenizer, preset="sclip/voc21", background=True, **options)(PICTURE)


def test_the_budget_changes_nothing_but_memory(segmenter):
    from sclip_plugin.device import CPU

    small = dataclasses.replace(CPU, tokens=60, tile_values=300, tile_columns=7, pamr_values=100)
    frugal = sp.Segmenter(
        segmenter.model, golden.tokenizer_of("open_clip"), cache_dir=False, templates="plain", budget=small
    )
    labels = ["cat", "dog", "grass"]
    expected, given = (seg(PICTURE, labels, steps="pamr(2)") for seg in (segmenter, frugal))
    np.testing.assert_allclose(given.scores, expected.scores, rtol=1e-4)


def test_features_that_are_not_numbers_are_said(segmenter):
    broken = copy.deepcopy(segmenter.model)
    with torch.no_grad():
        broken.visual.proj.fill_(float("nan"))
    seg = sp.Segmenter(broken, golden.tokenizer_of("open_clip"), cache_dir=False, templates="plain")
    with pytest.raises(NotFiniteError, match="float32"):
        seg(PICTURE, ["cat"])


def test_a_method_that_asks_for_text_as_the_docs_say():
    """`bind` gives a method with a field `text` the words, and nothing that it has no field for."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Asks(Method):
        text: torch.Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

        @property
        def needs_text(self):
            return True

        def __call__(self, block, context):
            assert self.text.shape[0] == 2
            return block.tokens

    seg = sp.Segmenter(golden.model("open_clip"), golden.tokenizer_of("open_clip"), cache_dir=False, templates="plain")
    assert seg(PICTURE, ["cat", "dog"], method=Asks()).label_map.shape == (90, 130)


def test_unknown_settings_get_a_hint():
    with pytest.raises(UnknownNameError, match="Did you mean 'window'"):
        Settings().changed(windwo=3)
