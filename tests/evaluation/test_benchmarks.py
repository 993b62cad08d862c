"""The benchmark files hold what the protocol's reference says, and a file of one's own is read with clear errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sclip_plugin.errors import UnknownNameError
from sclip_plugin.protocols import (
    BenchmarkFileError,
    benchmark_preset,
    list_benchmarks,
    list_presets,
    load_benchmark,
    load_preset,
    preset_for_method,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "benchmarks.json"
SETTINGS = ("logit_scale", "window", "stride", "resize_short_side")


def rules_of(settings):
    """prob_threshold, area_threshold and pamr_steps of the reference, of the steps benchmark and pamr."""
    steps = {step.called(): step for step in settings.make_steps()}
    rule, pamr = steps.get("benchmark"), steps.get("pamr")
    return {
        "prob_threshold": rule.prob if rule else 0,
        "area_threshold": rule.area if rule else None,
        "pamr_steps": pamr.steps if pamr else 0,
    }


@pytest.fixture(scope="module")
def reference():
    if not REFERENCE.is_file():
        pytest.skip("shared/benchmarks.json, the reference of the protocol, is not beside this checkout")
    return json.loads(REFERENCE.read_text())


@pytest.mark.parametrize("name", list_benchmarks())
class TestAgainstTheReference:
    def test_classes_and_layout(self, reference, name):
        benchmark, expected = load_benchmark(name), reference["benchmarks"][name]
        assert [list(names) for names in benchmark.classes] == expected["classes"]
        assert benchmark.num_classes == expected["num_classes"]
        for key in ("title", "images", "masks", "split", "reduce_zero_label", "ignore_index", "resize_short_side"):
            assert getattr(benchmark, key) == expected[key], key
        alternate = reference["alternate_classes"].get(name)
        assert [list(names) for names in benchmark.vocabularies.get("plain", ())] == (alternate or [])

    def test_sclip(self, reference, name):
        expected = reference["benchmarks"][name]
        settings = load_preset(f"sclip/{name}").settings
        assert settings.method == "csa"
        for key in SETTINGS:
            assert getattr(settings, key) == {**expected, **expected["sclip"]}[key], key
        for key, value in rules_of(settings).items():
            assert value == {**expected, **expected["sclip"]}[key], key

    @pytest.mark.parametrize("method", ["naclip", "clearclip", "resclip", "scclip"])
    def test_other_methods(self, reference, name, method):
        given = reference["other_methods"][method]
        expected = {
            **{"logit_scale": 40, "prob_threshold": 0.0, "area_threshold": None, "window": 224, "stride": 112},
            **{"pamr_steps": 0, "resize_short_side": reference["benchmarks"][name]["resize_short_side"]},
            **given["all"],
            **given.get(name, {}),
        }
        preset = load_preset(f"{method}/{name}")
        for key in SETTINGS:
            assert getattr(preset.settings, key) == expected[key], key
        own = preset.classes == load_benchmark(name).classes
        assert own == (method != "clearclip" or name not in reference["alternate_classes"])

    def test_published_figures(self, reference, name):
        figures = load_benchmark(name).published
        assert figures[0].method == "SCLIP"
        assert figures[0].miou == reference["published_miou_sclip_repository"][name]
        for method, row in reference["published_miou"].items():
            assert any((f.method, f.miou, f.source) == (method, row[name], row["source"]) for f in figures), method


# Trident's table of settings: short side, window, stride, cos_fac, keep_negative, prob_threshold, coarse_thresh.
TRIDENT = {
    "voc21": (448, 336, 224, 1.2, True, 0.2, 0.2),
    "context60": (576, 336, 224, 1.2, True, 0.15, 0.15),
    "coco_object": (448, 336, 224, 1.2, True, 0.25, 0.25),
    "voc20": (336, 336, 112, 0.0, True, 0.0, 0.2),
    "context59": (576, 336, 224, 1.2, True, 0.0, 0.15),
    "coco_stuff": (448, 336, 224, 1.2, True, 0.0, 0.05),
    "cityscapes": (688, 336, 224, 3.0, False, 0.0, 0.1),
    "ade20k": (576, 336, 224, 1.2, False, 0.0, 0.05),
}


@pytest.mark.parametrize("name", list_benchmarks())
def test_trident(name):
    preset = preset_for_method(load_benchmark(name), "trident")
    settings, method, refinement = preset.settings, preset.settings.make_method(), preset.settings.make_steps()[-1]
    short, window, stride, cos_fac, keep_negative, prob_threshold, coarse_thresh = TRIDENT[name]
    assert (settings.resize_short_side, settings.window, settings.stride) == (short, window, stride)
    assert settings.logit_scale == 40
    assert rules_of(settings) == {"prob_threshold": prob_threshold, "area_threshold": None, "pamr_steps": 0}
    assert method.guide == "facebook/dino-vitb16" and method.sam == refinement.model == "facebook/sam-vit-base"
    assert (method.beta, method.gamma, method.cos_fac, method.keep_negative) == (1.2, 3.0, cos_fac, keep_negative)
    assert method.halves == (2 if name == "cityscapes" else 1)
    assert (refinement.coarse_thresh, refinement.sam_iou_thresh) == (coarse_thresh, 0.8)
    assert (refinement.minimal_area, refinement.channel_axis) == (225, False)
    assert preset.classes == load_preset(f"proxyclip/{name}").classes


ALL = list_benchmarks()
STUFF_17 = "sky wall tree wood grass road sea river mountain sands desk bed building cloud floor hill rail".split()
JOINED = "person in shirt jeans dress sweater skirt jacket"
# Names as the authors' class files have them, where they are not those of SCLIP: (presets, benchmarks, class, names).
NAMES = [
    (("proxyclip", "trident", "textregion", "lposs", "lposs_plus"), ("voc21", "coco_object"), "person", ["person"]),
    (("proxyclip", "trident", "textregion", "lposs", "dinoiser"), ("voc21", "voc20"), "tvmonitor", ["tvmonitor"]),
    (("proxyclip", "trident", "textregion", "lposs", "lposs_plus"), ("coco_object",), "background", STUFF_17),
    (("freecp",), ("voc21", "voc20"), "person", [JOINED]),
    (("freecp",), ("coco_object",), "person", [JOINED + " body"]),
    (("freecp",), ("voc21", "voc20"), "tvmonitor", ["television monitor screen"]),
    (("freecp",), ("context60", "coco_stuff", "cityscapes", "ade20k"), "person", ["person"]),
    (("itaclip",), ("voc21", "context60"), "cat", ["cat", "feline"]),
    (("itaclip",), ("coco_object", "coco_stuff"), "tv", ["tv", "tvmonitor", "television monitor", "monitor",
                                                         "television", "screen"]),
    (("dinoiser", "lposs", "lposs_plus"), ("voc21", "voc20"), "ship", ["boat"]),
    (("dinoiser", "lposs", "lposs_plus"), ("voc21", "voc20"), "table", ["dining table"]),
    (("dinoiser", "lposs"), ("voc20", "context60", "context59", "coco_stuff"), "pottedplant", ["potted plant"]),
    (("dinoiser", "lposs", "lposs_plus"), ("coco_object",), "airplane", ["aeroplane"]),
    (("dinoiser", "lposs", "lposs_plus"), ("coco_stuff", "cityscapes", "ade20k"), "trafficlight", ["traffic light"]),
    (("dinoiser", "lposs"), ("ade20k",), "chestofdrawers", ["chest of drawers"]),
    (("dinoiser",), ("voc21", "coco_object"), "background", ["background"]),
    (("corrclip", "corrclipv2"), ("voc21", "context59", "coco_object", "coco_stuff", "ade20k"), "person", ["people"]),
    (("corrclipv2",), ("cityscapes",), "person", ["people, person"]),
]  # fmt: skip


@pytest.mark.parametrize(("presets", "benchmarks", "name", "expected"), NAMES)
def test_class_names_are_the_authors_own(presets, benchmarks, name, expected):
    for benchmark in benchmarks:
        index = load_benchmark(benchmark).class_names.index(name)
        for preset in presets:
            assert list(load_preset(f"{preset}/{benchmark}").classes[index]) == expected, (preset, benchmark)


def test_itaclip_has_44_words_of_background():
    words = load_preset("itaclip/voc21").classes[0]
    assert len(words) == len(set(words)) == 44 and {"helmet", "railway", "keyboard"} < set(words)
    assert not {"cloud", "hill", "rail", "river"} & set(words)


def test_textregions_sizes_are_the_authors_own():
    """Short side and largest long side; Cityscapes is larger than other protocols allow, and seen in halves."""
    sizes = {"voc21": (672, 1008), "coco_stuff": (896, 1334), "cityscapes": (1344, 2688)}
    for name in ALL:
        settings = load_preset(f"textregion/{name}").settings
        assert (settings.resize_short_side, settings.resize_long_side) == sizes.get(name, (672, 2016)), name
        method = settings.make_method()
        assert (method.cell, method.halves) == (336, 2 if name == "cityscapes" else 1), name


@pytest.mark.parametrize("name", ALL)
def test_lposs_plus_is_lposs_with_pixels_too(name):
    plus, plain = load_preset(f"lposs_plus/{name}"), load_preset(f"lposs/{name}")
    assert plus.classes == plain.classes
    assert plus.settings.steps == ("lposs", "lposs_plus", "merge") and plain.settings.steps == ("lposs", "merge")
    assert plus.settings.changed(steps="lposs, merge") == plain.settings


@pytest.mark.parametrize("name", ALL)
def test_corrclipv2_sees_the_whole_picture_and_merges_nothing(name):
    first, second = load_preset(f"corrclip/{name}").settings, load_preset(f"corrclipv2/{name}").settings
    method = second.make_method()
    assert (method.correlation, method.merge, method.guide) == ("picture", None, "nvidia/C-RADIOv3-L")
    assert second.resize_short_side == (784 if name == "cityscapes" else first.resize_short_side)
    # Its background_id is 0, the class that unlikely pixels get.
    for key in ("window", "stride", "logit_scale", "steps"):
        assert getattr(second, key) == getattr(first, key), key


def test_a_preset_that_is_not_the_authors_own_has_no_published_figure():
    differing = set()
    for full in list_presets():
        preset, (kind, name) = load_preset(full), full.split("/")
        if preset.differs:
            assert not preset.published_as, full
            differing.add(kind)
        elif preset.published_as:
            assert load_benchmark(name).published_miou(preset.published_as) is not None, full
    assert differing == {"clearclip", "corrclip", "corrclipv2", "textregion", "itaclip", "dinoiser", "freecp", "tipsv2"}
    # CLIP-DINOiser's decoder of background is for two benchmarks; its other presets are its authors'.
    assert load_preset("dinoiser/voc20").published_as and not load_preset("dinoiser/voc21").published_as


def test_every_preset_loads_and_names_a_benchmark():
    assert len(list_presets()) == 18 * 8 + 5 + 5 + 1
    for name in list_presets():
        preset = load_preset(name)
        assert preset.name == name
        assert len(preset.classes) == load_benchmark(name.partition("/")[2]).num_classes


def test_reading_benchmarks_does_not_import_torch():
    code = "import sys; from sclip_plugin.protocols import load_benchmark; load_benchmark('voc21'); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.parametrize("method", ["csa", "maskclip", "vanilla", "naclip", "gem"])
def test_a_method_without_a_preset_of_its_own_borrows_sclips(method):
    preset = preset_for_method(load_benchmark("voc21"), method)
    assert preset.settings.method == method
    assert preset.settings.logit_scale == (40 if method == "naclip" else 65)
    assert preset.published_as == {"csa": "SCLIP", "naclip": "NACLIP"}.get(method, "")


@pytest.mark.parametrize(
    ("load", "name", "says"),
    [
        (load_benchmark, "voc22", "Did you mean 'voc21'"),
        (load_preset, "slip/voc21", "Did you mean 'sclip'"),
        (load_preset, "sclip", "for instance 'sclip/voc21'"),
        (load_preset, "sclip/voc", "Benchmarks: voc21"),
    ],
)
def test_unknown_names_say_what_there_is(load, name, says):
    with pytest.raises(UnknownNameError, match=says):
        load(name)


SMALLEST = {
    "name": "mine",
    "images": "pictures/*.jpg",
    "masks": "labels/*.png",
    "classes": ["grass", ["sofa", "couch"]],
}


def write(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    content = {**SMALLEST, **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))  # JSON is YAML
    return path


def test_a_benchmark_of_ones_own_needs_four_keys(tmp_path):
    benchmark = load_benchmark(write(tmp_path))
    assert benchmark.classes == (("grass",), ("sofa", "couch"))
    assert benchmark.title == "mine" and benchmark.ignore_index == 255 and benchmark.split is None
    assert benchmark_preset(benchmark, "sclip").settings.method == "csa"
    assert preset_for_method(benchmark, "maskclip").settings.method == "maskclip"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": None}, "lacks classes"),
        ({"classes": []}, "one at least"),
        ({"classes": ["grass", True]}, "need quotes"),
        ({"masks": "labels/*/*.png"}, "same number of stars"),
        ({"mask": {"ignore": 255}}, "unknown key of 'mask' 'ignore'. Did you mean 'ignore_index'"),
        ({"mask": {"ignore_index": 1}}, "is also a class"),
        ({"clases": []}, "unknown key 'clases'"),
        *(
            ({"name": name}, "cannot be a folder's")
            for name in ("../../x", "/abs", "a/b", "a\\\\b", ".x", "x.", "x ", "a\0", "")
        ),
        ({"name": ["mine"]}, "expected a text"),
        ({"name": "x" * 300}, "cannot be a folder's"),
        *(
            ({"images": f"{place}*.jpg"}, "within the data set's folder")
            for place in ("/", "../", "a/../", "C:\\\\", "~/../")
        ),
        ({"split": "../../../etc/passwd"}, "within the data set's folder"),
        ({"split": 3}, "expected a text"),
        ({"images": "**/*.jpg", "masks": "**/*.png"}, "single stars"),
        ({"folders": "VOC2012"}, "expected a list"),
        ({"resize_short_side": "big"}, "whole number"),
        ({"resize_short_side": True}, "whole number"),
        ({"mask": {"ignore_index": 1e300}}, "whole number"),
        ({"mask": ["x"]}, "keys and values"),
        ({"mask": {"reduce_zero_label": "no"}}, "true or false"),
        ({"presets": {"sclip": ["csa"]}}, "keys and values"),
        *(
            ({"presets": {"x": {key: ["a"]}}}, "expected a text")
            for key in ("method", "vocabulary", "published_as", "differs")
        ),
        ({"published": [{"source": "x", "miou": {"A": "high"}}]}, "expected a number"),
        ({"classes": [["grass", {"x": 1}]]}, "class 0"),
        ({"vocabularies": {"plain": ["one"]}}, "has 1 classes, 'classes' has 2"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, changes, says):
    with pytest.raises(BenchmarkFileError, match=says):
        load_benchmark(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        ({"method": "csa", "logit_scal": 1}, "Did you mean 'logit_scale'"),
        ({"logit_scale": 1}, "does not say its method"),
        ({"method": "csa", "vocabulary": "plain"}, "unknown vocabulary 'plain'"),
        ({"method": "csa", "background": 1}, "background=1; expected True or False"),
        ({"method": "csa", "steps": ["benchmark(prob=True)"]}, "prob=True; expected a number from 0 to 1"),
        ({"method": "csa", "steps": ["vote", "pamr"]}, "expected the order"),
        ({"method": "csa", "pamr_steps": 10}, "unknown setting 'pamr_steps'"),
        ({"method": "csa", "published_as": "SCLIP", "differs": "no templates"}, "Leave one of them out"),
        ({"method": "csa", "window": 100, "stride": 200}, "stride=200 is larger than window=100"),
        ({"method": "scclip(lof_contamination=-1)"}, "lof_contamination=-1; expected"),
    ],
)
def test_a_wrong_preset_says_what_is_wrong(tmp_path, preset, says):
    benchmark = load_benchmark(write(tmp_path, presets={"sclip": preset}))
    with pytest.raises((BenchmarkFileError, UnknownNameError), match=says):
        benchmark_preset(benchmark, "sclip")


def test_hostile_files_are_a_sentence(tmp_path):
    path = tmp_path / "mine.yaml"
    bomb = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])
    for text in (bomb, "[" * 5000, "name: 2001-99-99", "k" * 100_000 + ": 1", "\x01", "caf\xe9"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(BenchmarkFileError) as error:
            load_benchmark(path)
        assert "mine.yaml" in str(error.value) and len(str(error.value)) < 1000


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="Names that ship: voc21"):
        load_benchmark(tmp_path / "absent.yaml")


def test_a_preset_may_rename_classes(tmp_path):
    """CorrCLIP says people for person, in every benchmark that has persons."""
    for name in list_benchmarks():
        own, theirs = load_benchmark(name).classes, load_preset(f"corrclip/{name}").classes
        assert len(own) == len(theirs) and (("people",) in theirs) and not any("person" in names for names in theirs)
        assert sum(a != b for a, b in zip(own, theirs, strict=True)) <= 2
    given = {"sclip": {"method": "csa", "renamed": {"no such": ["x"]}}}
    with pytest.raises(BenchmarkFileError, match="class 'no such'"):
        benchmark_preset(load_benchmark(write(tmp_path, presets=given)), "sclip")
    given["sclip"]["renamed"] = ["x"]
    with pytest.raises(BenchmarkFileError, match="by a class's first name"):
        benchmark_preset(load_benchmark(write(tmp_path, presets=given)), "sclip")
