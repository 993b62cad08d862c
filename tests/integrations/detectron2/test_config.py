"""MODEL.SCLIP: what it says reaches the segmenter, and survives being written and read."""

import pytest
from detectron2.config import LazyConfig, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from sclip_plugin.integrations.detectron2 import add_sclip_config, config_file, read_classes
from sclip_plugin.integrations.detectron2.config import SETTINGS, classes_of, settings_of

from sclip_plugin.errors import LabelError, UnknownNameError
from sclip_plugin.protocols import list_benchmarks, list_presets, load_benchmark, load_preset
from sclip_plugin.settings import Settings
from sclip_plugin.text.labels import parse_labels


@pytest.mark.parametrize("name", list_benchmarks())
def test_a_benchmarks_config_is_sclips_preset(make_cfg, name):
    cfg = make_cfg(name)
    assert cfg.MODEL.META_ARCHITECTURE == "SCLIPSegmentor"
    assert cfg.MODEL.SCLIP.PRESET == f"sclip/{name}"
    assert cfg.DATASETS.TEST == (f"sclip_{name}_sem_seg_val",)
    assert settings_of(cfg) == {}
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST) == ("RGB", 0)


@pytest.mark.parametrize("preset", list_presets())
def test_classes_of_a_preset_carry_the_names_of_the_benchmark(make_cfg, preset):
    benchmark = load_benchmark(preset.partition("/")[2])
    vocabulary = parse_labels(classes_of(make_cfg("sclip", "MODEL.SCLIP.PRESET", preset)))
    assert vocabulary.labels == benchmark.class_names
    assert vocabulary.names == parse_labels([list(names) for names in load_preset(preset).classes]).names


@pytest.mark.parametrize("name", list_benchmarks())
def test_the_lazy_config_is_the_same(name):
    cfg = LazyConfig.load(config_file(f"lazy/{name}"))
    assert cfg.model.segmenter.preset == f"sclip/{name}"
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names == f"sclip_{name}_sem_seg_val"
    assert (cfg.dataloader.test.mapper.image_format, list(cfg.dataloader.test.mapper.augmentations)) == ("RGB", [])


def test_every_setting_has_a_key():
    fields = {name.upper() for name in Settings.__dataclass_fields__}
    # A short form; the other, a threshold, leaves pixels without a class, as ignored words do.
    assert set(SETTINGS) == fields - {"IGNORE"} | {"REFINE"}


def test_methods_and_steps_with_options_come_by_file(make_cfg, tmp_path):
    (tmp_path / "mine.yaml").write_text("MODEL: {SCLIP: {METHOD: naclip(std=4.0), STEPS: [pamr, closing(3)]}}")
    cfg = make_cfg()
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    assert settings_of(cfg) == {"method": "naclip(std=4.0)", "steps": ["pamr", "closing(3)"]}


def test_what_a_config_sets_reaches_the_segmenter(make_cfg):
    options = {
        "PRESET": "sclip/voc21",
        "METHOD": "naclip(std=3.0)",
        "TEMPLATES": ["a {}.", "the {}."],
        "RESIZE_SHORT_SIDE": 200,
        "WINDOW": 96,
        "STRIDE": 48,
        "LOGIT_SCALE": 55.0,
        "BACKGROUND": True,
        "STEPS": "pamr(steps=3, dilations=(4, 8)), benchmark(prob=0.2, area=0.0), normalize",
        "CLASSES": "cat, sofa",
    }
    flat = [part for key, value in options.items() for part in (f"MODEL.SCLIP.{key}", value)]
    model = build_model(make_cfg("sclip", *flat))
    settings = model.segmenter.settings
    assert settings.templates == ("a {}.", "the {}.")
    for key in set(options) & set(SETTINGS) - {"STEPS", "TEMPLATES"}:
        assert getattr(settings, key.lower()) == options[key], key
    assert settings.steps == ("pamr(steps=3, dilations=(4, 8))", "benchmark(prob=0.2, area=0.0)", "normalize")
    assert model.vocabulary.labels == ("cat", "sofa", "background")


def test_a_dumped_config_builds_the_same_model(make_cfg, tmp_path):
    options = ["MODEL.SCLIP.CLASSES", ["cat", ["sofa", "couch"]], "MODEL.SCLIP.METHOD", "naclip(std=3.0)"]
    cfg = make_cfg("voc21", *options, "MODEL.SCLIP.REFINE", True)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = get_cfg()
    add_sclip_config(again)
    again.merge_from_file(str(path))
    assert again.MODEL.SCLIP == cfg.MODEL.SCLIP
    assert (again.INPUT, again.DATASETS) == (cfg.INPUT, cfg.DATASETS)
    models = [build_model(config) for config in (cfg, again)]
    assert models[0].segmenter.settings == models[1].segmenter.settings
    assert models[0].vocabulary == models[1].vocabulary


def test_a_saved_lazy_config_builds_the_same_model(model_name, tmp_path):
    from detectron2.config import instantiate

    cfg = LazyConfig.load(config_file("lazy/voc20"))
    overrides = [
        f"model.segmenter.name={model_name}",
        "+model.segmenter.device=cpu",
        "+model.segmenter.method=clearclip",
    ]
    overrides += [
        "+model.segmenter.steps=[pamr,vote]",
        "+model.segmenter.masks=slic",
        "model.classes=[cat,[sofa,couch]]",
    ]
    cfg = LazyConfig.apply_overrides(cfg, overrides)
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(cfg, path)
    models = [instantiate(config.model) for config in (cfg, LazyConfig.load(path))]
    assert models[0].segmenter.settings.plain() == models[1].segmenter.settings.plain()
    assert models[0].segmenter.settings.method == "clearclip"
    assert models[0].vocabulary == models[1].vocabulary == parse_labels(["cat", ["sofa", "couch"]])


@pytest.mark.parametrize(
    ("file", "content", "labels", "names"),
    [
        ("c.txt", "sky, wall\ncat\n\n sofa ,couch\n", ("sky", "cat", "sofa"), ("sky", "wall", "cat", "sofa", "couch")),
        ("c.json", '["cat", ["sofa", "couch"]]', ("cat", "sofa"), ("cat", "sofa", "couch")),
        ("c.json", '{"pet": ["cat", "dog"], "sofa": "couch"}', ("pet", "sofa"), ("cat", "dog", "couch")),
        ("c.yaml", "- cat\n- [sofa, couch]\n", ("cat", "sofa"), ("cat", "sofa", "couch")),
        ("c.yml", "pet: [cat, dog]\n", ("pet",), ("cat", "dog")),
        ("c.names", "café\n", ("café",), ("café",)),
    ],
)
def test_files_of_classes(make_cfg, tmp_path, file, content, labels, names):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    vocabulary = parse_labels(read_classes(path))
    assert (vocabulary.labels, vocabulary.names) == (labels, names)
    assert parse_labels(classes_of(make_cfg("sclip", "MODEL.SCLIP.CLASSES_FILE", str(path)))) == vocabulary


@pytest.mark.parametrize("content", ['{"cat": ', '"cat"', "3"])
def test_a_file_that_holds_no_classes(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(LabelError, match=r"classes\.json"):
        read_classes(path)


def test_classes_of_a_data_set(make_cfg):
    MetadataCatalog.get("some_things_val").set(stuff_classes=["cat", "dog"])
    assert classes_of(make_cfg("sclip", "MODEL.SCLIP.CLASSES_FROM", "some_things_val")) == ["cat", "dog"]
    # Without any of one's own, those of the data set to test on; a preset's come before them.
    assert classes_of(make_cfg("sclip", "DATASETS.TEST", "('some_things_val',)")) == ["cat", "dog"]
    assert len(classes_of(make_cfg("voc21", "DATASETS.TEST", "('some_things_val',)"))) == 21
    assert classes_of(make_cfg("sclip")) is None
    with pytest.raises(LabelError, match="'nothing_val', whose metadata have no stuff_classes"):
        classes_of(make_cfg("sclip", "MODEL.SCLIP.CLASSES_FROM", "nothing_val"))


def test_classes_from_two_places_are_refused(make_cfg, tmp_path):
    cfg = make_cfg("sclip", "MODEL.SCLIP.CLASSES", ["cat"], "MODEL.SCLIP.CLASSES_FILE", str(tmp_path / "c.txt"))
    with pytest.raises(ValueError, match="CLASSES and CLASSES_FILE; give one"):
        classes_of(cfg)


def test_as_many_classes_as_the_data_set_or_a_warning(make_cfg, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("sclip_plugin"), "propagate", True)
    build_model(make_cfg("voc21"))
    assert "figures on it would mean nothing" not in caplog.text
    build_model(make_cfg("voc21", "DATASETS.TEST", "('sclip_voc20_sem_seg_val',)"))
    assert "21 classes, the data set 'sclip_voc20_sem_seg_val' has 20" in caplog.text


def test_unknown_names_say_what_there_is(make_cfg):
    with pytest.raises(UnknownNameError, match="unknown config 'voc12'.*voc21"):
        config_file("voc12")
    with pytest.raises(UnknownNameError, match="unknown option of csa 'std'"):
        build_model(make_cfg("sclip", "MODEL.SCLIP.METHOD", "csa(std=1.0)"))
    with pytest.raises(UnknownNameError, match="Did you mean 'naclip'"):
        build_model(make_cfg("sclip", "MODEL.SCLIP.METHOD", "naclipp"))
