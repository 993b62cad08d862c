"""The catalog: names, classes, records, and ground truth as classes whatever the files hold."""

import io
import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from PIL import Image

from sclip_plugin.evaluation import DatasetError, MaskError, find_samples, read_mask
from sclip_plugin.integrations.detectron2 import datasets as adapter
from sclip_plugin.integrations.detectron2 import register_benchmark, register_benchmarks, register_prepared_datasets
from sclip_plugin.protocols import list_benchmarks, load_benchmark

FOLDERS = {
    "voc21": "VOCdevkit/VOC2012",
    "voc20": "VOCdevkit/VOC2012",
    "ade20k": "ADEChallengeData2016",
    "coco_object": "coco_object",
}


def opened(path):
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file))


@pytest.mark.parametrize("name", list_benchmarks())
def test_registered_on_import(name):
    benchmark = load_benchmark(name)
    registered = f"sclip_{name}_sem_seg_val"
    assert registered in DatasetCatalog
    metadata = MetadataCatalog.get(registered)
    assert tuple(metadata.stuff_classes) == benchmark.class_names
    assert len(metadata.stuff_colors) == benchmark.num_classes and len(metadata.stuff_colors[0]) == 3
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
    register_benchmarks()  # twice does no harm


@pytest.mark.parametrize("name", FOLDERS)
def test_records_are_the_evaluators_samples(datasets, name):
    benchmark = load_benchmark(name)
    samples, _ = find_samples(benchmark, datasets / FOLDERS[name])
    records = DatasetCatalog.get(f"sclip_{name}_sem_seg_val")
    assert [record["file_name"] for record in records] == [str(sample.image_path) for sample in samples]
    for record, sample in zip(records, samples, strict=True):
        assert np.array_equal(opened(record["sem_seg_file_name"]), read_mask(sample.mask_path, benchmark))
        # Detectron2's own mapper reads it so; of a palette it would take the colours' brightness.
        as_mapped = read_image(record["sem_seg_file_name"], "L").squeeze(2)
        assert np.array_equal(as_mapped, opened(record["sem_seg_file_name"]))
        assert PathManager.exists(record["sem_seg_file_name"])
        assert PathManager.get_local_path(record["sem_seg_file_name"]) == str(sample.mask_path)


@pytest.mark.parametrize("name", list_benchmarks())
def test_each_layout_is_found_below_the_folder_of_data_sets(tmp_path, monkeypatch, name):
    """Generated files where the benchmark says, with every label once."""
    benchmark = load_benchmark(name)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    stars = "/".join(["city"] * (benchmark.images.count("*") - 1) + ["one"])
    high = benchmark.num_classes + int(benchmark.reduce_zero_label)
    labels = np.array([[*range(high), 255]], dtype=np.uint8)
    for pattern in (benchmark.images, benchmark.masks):
        for star in stars.split("/"):
            pattern = pattern.replace("*", star, 1)
        path = tmp_path / benchmark.folders[0] / pattern
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).convert("RGB" if path.suffix == ".jpg" else "L").save(path)
    if benchmark.split:
        split = tmp_path / benchmark.folders[0] / benchmark.split
        split.parent.mkdir(parents=True)
        split.write_text("one\n")
    (record,) = DatasetCatalog.get(f"sclip_{name}_sem_seg_val")
    expected = [*([255] if benchmark.reduce_zero_label else []), *range(benchmark.num_classes), 255]
    assert opened(record["sem_seg_file_name"])[0].tolist() == expected
    assert record["image_id"] == stars


def test_a_benchmark_of_ones_own(tmp_path):
    text = "name: mine\nimages: 'images/*.png'\nmasks: 'masks/*.png'\nclasses: [cat, dog]\n"
    text += "mask: {reduce_zero_label: true}\n"
    (tmp_path / "mine.yaml").write_text(text)
    for folder, values in (("images", np.zeros((2, 3, 3))), ("masks", np.array([[0, 1, 2], [2, 1, 255]]))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "data" / folder / "a.png")
    name = register_benchmark(load_benchmark(tmp_path / "mine.yaml"), tmp_path / "data")
    (record,) = DatasetCatalog.get(name)
    assert opened(record["sem_seg_file_name"]).tolist() == [[255, 0, 1], [1, 0, 255]]
    assert MetadataCatalog.get(name).stuff_classes == ["cat", "dog"]


def test_a_label_that_names_no_class_is_an_error(tmp_path):
    Image.fromarray(np.full((2, 2), 99, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match="99"):
        opened(adapter.mask_path(load_benchmark("voc21"), tmp_path / "a.png"))


def test_masks_are_only_read(tmp_path):
    with pytest.raises(ValueError, match="'rb'"):
        PathManager.open(adapter.mask_path(load_benchmark("voc21"), tmp_path / "a.png"), "w")


def test_the_address_of_a_mask_brings_its_handler_along(tmp_path):
    """A worker that is started, not forked, knows nothing of this package until it unpickles a record."""
    path = adapter.mask_path(load_benchmark("voc20"), tmp_path / "a.png")
    names = []

    class Spy(pickle.Unpickler):
        def find_class(self, module, name):
            names.append(module)
            return super().find_class(module, name)

    again = Spy(io.BytesIO(pickle.dumps(path))).load()
    assert again == path and isinstance(again, str)
    assert "sclip_plugin.integrations.detectron2.masks" in names


def test_a_wrong_folder_says_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match="VOCdevkit/VOC2012"):
        DatasetCatalog.get("sclip_voc21_sem_seg_val")


def test_missing_partners_are_said(datasets, tmp_path, caplog, monkeypatch):
    import logging
    import shutil

    monkeypatch.setattr(logging.getLogger("sclip_plugin"), "propagate", True)
    shutil.copytree(datasets / "ADEChallengeData2016", tmp_path / "ADEChallengeData2016")
    masks = sorted((tmp_path / "ADEChallengeData2016/annotations/validation").iterdir())
    masks[0].unlink()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert len(DatasetCatalog.get("sclip_ade20k_sem_seg_val")) == len(masks) - 1
    assert masks[0].stem in caplog.text and "mask missing" in caplog.text


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Every folder that other projects' scripts leave, with one picture each."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for entry in adapter._prepared().values():
        count = load_benchmark(entry["benchmark"]).num_classes
        labels = np.array([[*range(count), 255]], dtype=np.uint8)
        for folder, file in (("images", "one.jpg"), ("masks", "one.png")):
            (tmp_path / entry[folder]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).convert("RGB" if folder == "images" else "L").save(tmp_path / entry[folder] / file)
    return tmp_path


def test_prepared_folders_under_their_projects_names(prepared):
    register_prepared_datasets()
    assert register_prepared_datasets() == []
    for name, entry in adapter._prepared().items():
        (record,) = DatasetCatalog.get(name)
        benchmark = load_benchmark(entry["benchmark"])
        assert opened(record["sem_seg_file_name"])[0].tolist() == [*range(benchmark.num_classes), 255]
        assert tuple(MetadataCatalog.get(name).stuff_classes) == benchmark.class_names
        assert MetadataCatalog.get(name).evaluator_type == "sem_seg"


def test_a_name_that_is_taken_stays_as_it_is(monkeypatch):
    DatasetCatalog.register("taken_by_another_project", list)
    entry = {"project": "another", "benchmark": "voc20", "images": "a", "masks": "b"}
    monkeypatch.setattr(adapter, "_prepared", lambda: {"taken_by_another_project": entry})
    assert register_prepared_datasets() == []
    assert DatasetCatalog.get("taken_by_another_project") == []


def test_where_only_prepared_masks_are_their_name_is_said(prepared):
    with pytest.raises(DatasetError, match=r"'context_59_test_sem_seg' \(CAT-Seg\)"):
        DatasetCatalog.get("sclip_context59_sem_seg_val")
