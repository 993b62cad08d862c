"""One text form for methods, steps and masks: what it says, what is no such text, and that every part has one."""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import pytest
import torch
from outside_models import transformers_model

import sclip_plugin as sp
from sclip_plugin.errors import ArgumentTypeError, SettingError, UnknownNameError
from sclip_plugin.fields import plain_hints
from sclip_plugin.grammar import Part, parse, split
from sclip_plugin.masks import MASK_SOURCES
from sclip_plugin.memory import MemoryStore
from sclip_plugin.memory.examples import Cells
from sclip_plugin.methods import METHODS
from sclip_plugin.settings import Settings
from sclip_plugin.steps import STEPS
from sclip_plugin.steps.floss import Ranking
from sclip_plugin.text.tuned import Tuned

REGISTRIES = (METHODS, STEPS, MASK_SOURCES)
EVERY_PART = [(registry, name) for registry in REGISTRIES for name in registry.names()]
every_part = pytest.mark.parametrize(("registry", "name"), EVERY_PART, ids=lambda v: getattr(v, "kind", v))

FORMS = [
    (METHODS, "csa", "csa"),
    (METHODS, " csa ", "csa"),
    (METHODS, "csa()", "csa"),
    (METHODS, "sclip", "csa"),  # an alias
    (METHODS, "naclip(std=4)", "naclip(std=4.0)"),
    (METHODS, "naclip(4)", "naclip(std=4.0)"),  # the first option of its own, not of AttentionMethod
    (METHODS, "naclip(std=5.0)", "naclip"),  # a default
    (METHODS, "naclip( std = 4.0,\n ffn=True )", "naclip(ffn=True, std=4.0)"),
    (METHODS, "csa(projections=['q', 'q'])", "csa(projections=('q', 'q'))"),
    (METHODS, "csa(('v',))", "csa(projections=('v',))"),
    (METHODS, "scclip(lof_contamination=1e-3)", "scclip(lof_contamination=0.001)"),
    (METHODS, "proxyclip:facebook/dino-vits8", "proxyclip(guide='facebook/dino-vits8')"),
    (METHODS, "proxyclip:mae@a folder/of mine(beta=1)", "proxyclip(guide='mae@a folder/of mine', beta=1.0)"),
    (METHODS, "corrclip(merge=None)", "corrclip(merge=None)"),
    (METHODS, "resclip(base='csa(temperature=2)')", "resclip(base='csa(temperature=2.0)')"),
    (METHODS, "resclip(base=\"csa(projections=('q', 'v'))\")", "resclip(base=\"csa(projections=('q', 'v'))\")"),
    (STEPS, "threshold(0.4)", "threshold(probability=0.4)"),
    (STEPS, "threshold(cosine=-0.5)", "threshold(cosine=-0.5)"),
    (STEPS, "closing:5", "closing(side=5)"),
    (STEPS, "pamr(dilations=(4,))", "pamr(dilations=(4,))"),
    (STEPS, "sam:my/weights", "sam(model='my/weights')"),
    (STEPS, "lposs(k=40, guide='C:\\\\weights, (new)')", "lposs(guide='C:\\\\weights, (new)', k=40)"),
    (MASK_SOURCES, "slic:300", "slic(segments=300)"),
    (MASK_SOURCES, "sam3:folder('cat, dog')", "sam3(words='cat, dog', model='folder')"),
    (MASK_SOURCES, "sam:facebook/sam-vit-huge(points=16)", "sam(model='facebook/sam-vit-huge', points=16)"),
]


@pytest.mark.parametrize(("registry", "text", "canonical"), FORMS, ids=[text.strip() for _, text, _ in FORMS])
def test_a_text_says_a_part(registry, text, canonical):
    assert registry.canonical(text) == canonical
    assert registry.make(canonical) == registry.make(text)


BAD = [
    "", " ", "(", "csa(", "csa)", "csa(residual=True", "csa(1, 2)", "csa(residual)", "csa(residual=not True)",
    "csa(residual=open('x'))", "csa(**{'residual': True})", "csa(*[1])", "csa(residual=True, residual=False)",
    "csa()()", "csa(residual=True)(ffn=True)", "csa() + csa()", "csa(1) if (2)", "csa(residual=True;)", "csa:", "cs a",
    "csa(ffn=\0)", "csa(" + "(" * 300 + ")" * 300 + ")",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_what_is_no_such_text_is_refused(registry, text):
    with pytest.raises(SettingError):
        registry.make(text)
    with pytest.raises(SettingError):
        parse(text)


@pytest.mark.parametrize(
    ("registry", "text", "error"),
    [
        (METHODS, "cas", UnknownNameError),
        (METHODS, "1", UnknownNameError),
        (METHODS, "a.b", UnknownNameError),
        (METHODS, "naclip(sdt=4)", UnknownNameError),
        (METHODS, "resclip(text=None, temprature=2)", UnknownNameError),
        (METHODS, "naclip(std='wide')", SettingError),
        (METHODS, "naclip(std=-1)", SettingError),
        (METHODS, "naclip(4, std=4)", SettingError),  # the same option twice
        (METHODS, "proxyclip:a(guide='b')", SettingError),
        (METHODS, "resclip(base='maskclip')", SettingError),
        (STEPS, "vote(3)", SettingError),  # it has no option
        (STEPS, "closing(4)", SettingError),
        (STEPS, "threshold:0.4", SettingError),
        (MASK_SOURCES, "slic:many", SettingError),
        (METHODS, None, ArgumentTypeError),
        (METHODS, 3, ArgumentTypeError),
        (STEPS, ["vote"], ArgumentTypeError),
        (STEPS, METHODS.make("csa"), ArgumentTypeError),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_text_is_said(registry, text, error):
    with pytest.raises(error):
        registry.make(text)


FILES = [("memory", "second"), ("memory", "folder"), ("present", "null"), ("rns", "examples")]


def base_of(registry, name: str, folder) -> Part:
    """A part with what it can't be made without."""
    if name == "memory":
        MemoryStore.create(folder / "bank", {})
        return registry.make(name, folder=str(folder / "bank"))
    if name == "sam3" and registry is MASK_SOURCES:
        return registry.make("sam3('cat')")
    if name == "rns":
        cells = Cells(torch.ones(1, 2).half(), torch.ones(1, 2).half(), (("a", 1),))
        rows = ((0, np.ones(2, np.float32)),)
        Tuned(("cat",), ("cat",), (0,), rows, (0.0,), answers=torch.ones(1, 2), cells=cells).save(
            folder / "a.safetensors"
        )
        return registry.make(name, examples=str(folder / "a.safetensors"))
    if name == "floss":
        Ranking(("{}",), torch.ones(1, 1), torch.ones(1, 1), ("cat",)).save(folder / "a.json")
        return registry.make(name, ranking=str(folder / "a.json"))
    return registry.make(name, **{"auxiliary": {"texts": "a.json"}, "enrich": {"bank": "a.pt"}}.get(name, {}))


def others(value, annotation):
    """Values of an option that differ from one that it has; the first that fits its range is taken."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value + 2, value - 1)
    elif isinstance(value, float):
        yield from (value / 2 + 0.1, value / 2, 0.25)
    elif isinstance(value, tuple):
        yield from (value[:1], value[::-1], tuple(each - 1 for each in value if not isinstance(each, str)))
    elif isinstance(value, Part):
        yield "csa(projections=('q', 'v'))"
    else:
        yield from (0.5, (0.1, 0.2, 0.3), """it's "a (folder), of mine" \\ ü""", 3)


def test_an_option_that_is_missing_is_named(own_registries):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Holds(METHODS.base):
        encoder: str

    METHODS.register("holds-one")(Holds)
    with pytest.raises(SettingError, match=r"holds-one\(encoder=…\)"):
        METHODS.make("holds-one")


IN_HAND = (("memory", "second"), ("memory", "folder"), ("present", "null"), ("rns", "examples"), ("floss", "ranking"))


@every_part
def test_every_part_is_made_again_by_its_text(registry, name, tmp_path):
    """By default, and with each of its options changed alone, and with all of them."""
    base = base_of(registry, name, tmp_path)
    assert registry.make(base.as_text()) == base and registry.canonical(base) == base.as_text()
    assert base.as_text().partition("(")[0] == name
    hints, every = plain_hints(type(base)), {}
    for field in base.options():
        # A segmenter in hand; a folder and a file that have to exist.
        if (name, field.name) in IN_HAND:
            continue
        for value in others(getattr(base, field.name), hints.get(field.name)):
            try:
                changed = dataclasses.replace(base, **{field.name: value})
            except SettingError:
                continue
            if changed != base:
                break
        else:
            pytest.fail(f"no other value of {field.name} was found")
        every[field.name] = value
        text = changed.as_text()
        assert f"{field.name}=" in text and registry.make(text) == changed, text
        assert registry.make(text).identity() == changed.identity()
        # A memory's guide has to be the one that it was built with, so its name says nothing more.
        assert changed.identity() != base.identity() or (name, field.name) == ("memory", "guide")
        assert split(f"{text}, {base.as_text()},{text}") == [text, base.as_text(), text]
    try:
        whole = dataclasses.replace(base, **every)
    except SettingError:  # values that do not go together
        return
    assert registry.make(whole.as_text()) == whole


def test_a_model_in_hand_has_no_text_and_stays_in_hand():
    guide = transformers_model("dino16")
    method, step = METHODS.make("proxyclip", guide=guide), STEPS.make("lposs", guide=guide)
    assert method.as_text() is None and step.as_text() is None
    settings = Settings(method=method, steps=[step, "pamr"])
    assert settings.method is method and settings.steps == (step, "pamr")
    assert settings.make_method().guide is guide and settings.method_name == "proxyclip"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" , ,", []),
        ("pamr", ["pamr"]),
        ("lposs(alpha=0.9, k=40), pamr , closing(3)", ["lposs(alpha=0.9, k=40)", "pamr", "closing(3)"]),
        ("sam(model='a, b'), vote", ["sam(model='a, b')", "vote"]),
        ("""sam(model='it\\'s, "so"'), vote""", ["""sam(model='it\\'s, "so"')""", "vote"]),
        ("""sam(model='C:\\\\'), vote""", ["""sam(model='C:\\\\')""", "vote"]),
        ("pamr(dilations=(1, 2)), resclip(base='csa(1, 2)')", ["pamr(dilations=(1, 2))", "resclip(base='csa(1, 2)')"]),
    ],
)
def test_commas_split_where_no_bracket_and_no_quote_is_open(text, parts):
    assert split(text) == parts


def test_a_method_by_its_text_is_that_method_everywhere(segmenter):
    picture = sp.draw_scene(seed=1).picture
    by_text = segmenter(picture, ["cat", "dog"], method="naclip(std=2)")
    by_option = segmenter(picture, ["cat", "dog"], method="naclip", std=2)
    assert (by_text.label_map == by_option.label_map).all() and by_text.settings == by_option.settings
    assert by_text.settings["method"] == "naclip(std=2.0)"
    assert segmenter.encode(picture, method="naclip(std=2)").settings.method_options == {"std": 2.0}
