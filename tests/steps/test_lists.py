"""A list of steps: its order, and the short forms that stand for an entry of it."""

from __future__ import annotations

import itertools

import pytest

from sclip_plugin.errors import SettingError, UnknownNameError
from sclip_plugin.settings import Settings, setting_names
from sclip_plugin.steps import STEPS, make_step
from sclip_plugin.steps.decisions import Closing, Threshold
from sclip_plugin.steps.short import ORDER, SHORT_FORMS, value_of, with_short_forms

PLACES = {"patches": "surgery", "pixels": "pamr", "labels": "closing"}


@pytest.mark.parametrize("order", itertools.permutations(PLACES))
def test_steps_stand_in_the_order_that_they_run_in(order):
    texts = [PLACES[place] for place in order]
    for given in (texts, tuple(texts), ", ".join(texts), iter(texts), [make_step(text) for text in texts]):
        if order == tuple(PLACES):
            assert Settings(steps=given).steps == tuple(texts)
        else:
            with pytest.raises(SettingError, match="expected the order patches, pixels, labels"):
                Settings(steps=given)


def test_every_step_has_a_place_and_steps_of_one_place_stand_as_given():
    assert {STEPS[name].on for name in STEPS.names()} == set(PLACES)
    for texts in (("closing", "normalize"), ("normalize", "closing"), ("pamr", "merge"), ("merge", "pamr")):
        assert Settings(steps=texts).steps == texts


def test_forms_of_one_list():
    expected = ("pamr(steps=3)", "closing(side=5)")
    for given in ("pamr(3), closing(5)", ["pamr(3)", "closing(5)"], ["pamr(3)", Closing(side=5)]):
        assert Settings(steps=given).steps == expected
    assert Settings(steps="vote", masks="slic").steps == ("vote",) == Settings(steps=("vote",), masks="slic").steps
    assert Settings(steps=Closing()).steps == ("closing",)
    for none in ("", (), [], None):
        assert Settings(steps=none).steps == ()


FORMS = [
    # the list before, the short forms, and the list after
    ("", {"threshold": 0.4}, "threshold(0.4)"),
    ("threshold(0.2)", {"threshold": 0.4}, "threshold(0.4)"),
    ("threshold(0.2, cosine=0.1)", {"threshold": 0.4}, "threshold(0.4, cosine=0.1)"),  # its other option stays
    ("threshold(0.2), closing", {"threshold": False}, "closing"),
    ("closing", {"threshold": False}, "closing"),
    ("threshold(0.2)", {"threshold": None}, "threshold(0.2)"),
    ("threshold(0.2)", {"threshold": 0.0}, "threshold"),  # 0 is a value, not an absence
    ("surgery, closing", {"threshold": 0.4}, "surgery, threshold(0.4), closing"),
    ("pamr", {"threshold": 0.4}, "pamr, threshold(0.4)"),
    ("benchmark(area=0.1), vote", {"threshold": 0.4}, "benchmark(area=0.1), threshold(0.4), vote"),
    ("", {"refine": True}, "pamr, specks"),
    ("pamr(3), specks(0.1)", {"refine": True}, "pamr, specks"),
    ("closing", {"refine": "pamr(3)"}, "pamr(3), closing"),
    ("lposs, lposs_plus, merge, closing", {"refine": True}, "lposs, lposs_plus, merge, pamr, closing, specks"),
    ("closing, vote", {"refine": "sam(minimal_area=9)"}, "closing, sam(minimal_area=9), vote"),
    ("pamr, closing, sam, specks", {"refine": False}, "closing"),
    ("pamr", {"refine": None}, "pamr"),
    ("pamr", {"refine": "sam"}, "pamr, sam"),  # it replaces a step of that name, and there is none
    ("pamr, sam(minimal_area=9)", {"refine": "sam"}, "pamr, sam"),
    ("closing", {"refine": True, "threshold": 0.4}, "pamr, threshold(0.4), closing, specks"),
    ("", {"threshold": 0.4, "refine": True}, "pamr, threshold(0.4), specks"),
]


@pytest.mark.parametrize(("before", "short", "after"), FORMS)
def test_short_forms_replace_insert_and_remove(before, short, after):
    expected = Settings(steps=after, masks="slic").steps
    assert with_short_forms(before, short) == expected
    start = Settings(steps=before, masks="slic")
    assert start.changed(**short).steps == expected
    assert start.changed(**short).changed(**dict.fromkeys(short)).steps == expected
    assert Settings(masks="slic").changed(steps=before, **short).steps == expected


@pytest.mark.parametrize(
    ("short", "error"),
    [
        ({"threshold": 1.5}, SettingError),
        ({"threshold": "high"}, SettingError),
        ({"threshold": True}, SettingError),
        ({"refine": "closing"}, SettingError),
        ({"refine": "pamr(steps=0)"}, SettingError),
        ({"refine": "pamrr"}, UnknownNameError),
        ({"refine": Threshold(probability=0.4)}, SettingError),
    ],
    ids=str,
)
def test_values_that_no_short_form_has_are_refused(short, error):
    with pytest.raises(error):
        Settings().changed(**short)


def test_what_a_list_says_as_a_short_form():
    for form, value in (("threshold", 0.4), ("refine", True), ("refine", "sam(minimal_area=9)")):
        assert value_of(Settings().changed(**{form: value}).steps, form) == value
        assert value_of((), form) is False


def test_short_forms_are_no_settings_and_name_steps_that_there_are():
    assert not set(SHORT_FORMS) & setting_names()
    assert set(ORDER) <= set(STEPS.names())
    assert {name for names, _ in SHORT_FORMS.values() for name in names} <= set(STEPS.names())
    assert [STEPS[name].on for name in ORDER] == sorted((STEPS[name].on for name in ORDER), key=[*PLACES].index)
