"""Names of all kinds, in files and in labels: no format loses a picture by them, and each reader finds them again."""

import csv
import json
import urllib.parse
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, UnknownNameError
from sclip_plugin.text.labels import parse_labels, parse_templates

from .pictures import blobs

STRANGE = ["a\x1bb", "c\x00", "half \ud800", "\ufffe", "tab\tline\n", "<&>\"'"]


@pytest.mark.parametrize("name", ["cvat", "labelstudio"])
def test_xml_is_well_formed_whatever_a_label_holds(name, tmp_path):
    label_map = np.arange(36).reshape(6, 6) % len(STRANGE)
    files = sp.Segmentation(STRANGE, label_map).export(tmp_path, name, source="in/\x07.png")
    tree = ElementTree.parse(next(path for path in files if path.suffix == ".xml"))
    if name == "cvat":
        said = [label.text for label in tree.iter("name")]
        used = {mask.get("label") for mask in tree.iter("mask")}
    else:
        said = [label.get("value") for label in tree.iter("Label")]
        (task,) = json.loads(files[0].read_text())
        used = {label for entry in task["predictions"][0]["result"] for label in entry["value"]["brushlabels"]}
    assert said == [r"a\x1bb", r"c\x00", r"half \ud800", r"\ufffe", "tab\tline\n", "<&>\"'"]
    assert used == {*said}  # annotations speak of the labels that the interface has


@pytest.mark.parametrize(
    "path", ["cat+dog.png", "day #1.png", "a&b=c?.png", "100%41.png", "café 1.png", "猫.png", "ca\udcff.png", "a;b.png"]
)
def test_label_studio_is_led_to_the_file(path, tmp_path):
    tasks, _ = sp.Segmentation(["x"], blobs() * 0).export(tmp_path, "labelstudio", source=f"/data/{path}")
    address = json.loads(tasks.read_text())[0]["data"]["image"]
    query = urllib.parse.urlsplit(address).query
    assert urllib.parse.parse_qs(query, errors="surrogateescape") == {"d": [f"data/{path}"]}
    assert address.isascii()


def test_an_address_stays_as_it_is(tmp_path):
    tasks, _ = sp.Segmentation(["x"], blobs() * 0).export(tmp_path, "labelstudio", source="http://a.b/c d?e=1#f")
    assert json.loads(tasks.read_text())[0]["data"]["image"] == "http://a.b/c d?e=1#f"


@pytest.mark.parametrize("source", ["=1+1.png", "+a.png", "-a.png", "@SUM(1).png", "\ta.png"])
def test_no_file_name_is_a_formula_in_a_table(source, tmp_path):
    (path,) = sp.Segmentation(["=label"], blobs() * 0).export(tmp_path, "csv", source=source)
    with open(path, newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["picture"] == f"./{source}" and row["label"] == "=label"  # labels are one's own, and stay


@pytest.mark.parametrize("step", [-0.001, 0.001])
@pytest.mark.parametrize("turned", [0, 30])
def test_outer_rings_are_anticlockwise_wherever_north_is(step, turned, tmp_path):
    import rasterio
    import shapely.geometry
    from rasterio.transform import Affine

    across, up = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    place = Affine(0.001 * across, -step * up, 10, 0.001 * up, step * across, 50)
    label_map = np.zeros((20, 30), int)
    label_map[4:12, 6:20] = 1
    label_map[6:8, 9:12] = 0
    how = {"driver": "GTiff", "width": 30, "height": 20, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=place, **how) as file:
        file.write(np.zeros((1, 20, 30), np.uint8))
    for source in (tmp_path / "a.tif", None):
        made = sp.Segmentation(["ground", "thing"], label_map)
        (path,) = made.export(tmp_path / "a.geojson", "geojson", source=source, tolerance=0)
        shapes = [shapely.geometry.shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]
        parts = [part for shape in shapes for part in getattr(shape, "geoms", [shape])]
        assert len(parts) == 3 and sum(len(part.interiors) for part in parts) == 2
        assert all(part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors) for part in parts)


def test_labels_that_are_no_text_are_refused_before_a_tokenizer_sees_them():
    for labels in (["cat", "caf\udce9"], [["cat", "\ud800"]], {"cat": ["\udfff"]}):
        with pytest.raises(LabelError, match=r"no text in UTF-8"):
            parse_labels(labels)
    with pytest.raises(UnknownNameError, match="prompt template"):
        parse_templates("a \ud800 {}")
