"""Each format is read back by its own tool's reader, and holds the same pixels."""

import base64
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw

from .pictures import LABELS, MAPS, blobs, ious, masks, result

SMOOTH = ("blobs", "rings", "one class")
"""Maps whose regions are large enough for a simplified outline to mean something."""


@pytest.fixture(params=MAPS)
def label_map(request):
    return MAPS[request.param]


def drawn(shape, parts):
    """(classes, H, W) of masks with their class."""
    got = np.zeros((len(LABELS), *shape), bool)
    for index, mask in parts:
        got[index] |= np.asarray(mask, bool)
    return got


def read_coco(path, capsys):
    """By pycocotools."""
    from pycocotools.coco import COCO

    coco = COCO(str(path))
    capsys.readouterr()
    (picture,) = coco.loadImgs(coco.getImgIds())
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == LABELS
    return drawn(
        (picture["height"], picture["width"]),
        [(a["category_id"] - 1, coco.annToMask(a)) for a in coco.loadAnns(coco.getAnnIds())],
    )


class TestCoco:
    @pytest.mark.parametrize("options", [{}, {"regions": "classes"}])
    def test_run_lengths_are_the_pixels(self, label_map, options, tmp_path, capsys):
        (path,) = result(label_map).export(tmp_path, "coco", **options)
        assert (read_coco(path, capsys) == masks(label_map)).all()

    def test_exact_polygons_are_the_pixels(self, label_map, tmp_path, capsys):
        (path,) = result(label_map).export(tmp_path, "coco-polygons", tolerance=0)
        assert ious(read_coco(path, capsys), masks(label_map)).min() > 0.98

    @pytest.mark.parametrize("name", SMOOTH)
    def test_polygons_are_nearly_the_pixels(self, name, tmp_path, capsys):
        (path,) = result(MAPS[name]).export(tmp_path / "mine.json", "coco-polygons")
        assert path.name == "mine.json" and ious(read_coco(path, capsys), masks(MAPS[name])).min() > 0.98

    def test_boxes_and_areas_are_those_of_the_masks(self, tmp_path, capsys):
        from pycocotools import mask as tool

        (path,) = result(blobs()).export(tmp_path, "coco")
        for annotation in json.loads(path.read_text())["annotations"]:
            packed = annotation["segmentation"]
            assert annotation["area"] == tool.area(packed) and annotation["bbox"] == tool.toBbox(packed).tolist()

    def test_supervision_reads_it(self, tmp_path, label_map):
        import supervision

        image = result(label_map).picture
        image.save(tmp_path / "photo.png")
        (path,) = result(label_map).export(tmp_path, "coco", source="somewhere/photo.png", name="photo")
        data = supervision.DetectionDataset.from_coco(str(tmp_path), str(path), force_masks=True)
        ((_, _, found),) = data
        assert data.classes == LABELS
        got = drawn(label_map.shape, zip(found.class_id, found.mask, strict=True))
        assert (got == masks(label_map)).all()


class TestYolo:
    @staticmethod
    def read(folder, shape):
        """By supervision, which reads it as Ultralytics does: fillPoly over whole pixels."""
        import supervision

        data = supervision.DetectionDataset.from_yolo(
            str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
        )
        ((_, picture, found),) = data
        assert data.classes == LABELS and picture.shape[:2] == shape
        return drawn(shape, zip(found.class_id, found.mask, strict=True))

    def test_exact_polygons_are_the_pixels(self, label_map, tmp_path):
        result(label_map).export(tmp_path, "yolo", tolerance=0)
        assert ious(self.read(tmp_path, label_map.shape), masks(label_map)).min() > 0.98

    @pytest.mark.parametrize("name", SMOOTH)
    def test_polygons_are_nearly_the_pixels(self, name, tmp_path):
        result(MAPS[name]).export(tmp_path, "yolo")
        assert ious(self.read(tmp_path, MAPS[name].shape), masks(MAPS[name])).min() > 0.98

    def test_no_line_is_short_enough_to_be_a_box(self, tmp_path):
        result(MAPS["specks"]).export(tmp_path, "yolo")
        assert min(len(line.split()) for line in (tmp_path / "labels/picture.txt").open()) >= 7

    def test_the_pictures_are_those_that_were_labelled(self, tmp_path):
        made = result(blobs())
        made.export(tmp_path, "yolo")
        assert (np.asarray(Image.open(tmp_path / "images/picture.png")) == np.asarray(made.picture)).all()


class TestAnnotationPrograms:
    def test_label_studio_decodes_the_pixels(self, label_map, tmp_path):
        # Not among what the tests install: it brings a package "tests", which older pytests take for this one.
        decode_rle = pytest.importorskip("label_studio_converter.brush", reason="CI installs it").decode_rle
        tasks, config = result(label_map).export(tmp_path, "labelstudio", source="/data/a b.jpg")
        (task,) = json.loads(tasks.read_text(encoding="utf-8"))
        assert task["data"]["image"] == "/data/local-files/?d=data/a%20b.jpg"  # as its own local storage writes it
        parts = []
        for entry in task["predictions"][0]["result"]:
            shape = entry["original_height"], entry["original_width"], 4
            (name,) = entry["value"]["brushlabels"]
            rgba = decode_rle(entry["value"]["rle"]).reshape(shape)
            assert set(np.unique(rgba)) <= {0, 255}
            parts.append((LABELS.index(name), rgba[..., 3] > 0))
        assert (drawn(label_map.shape, parts) == masks(label_map)).all()
        choices = ElementTree.parse(config).getroot().findall("BrushLabels/Label")
        assert [choice.get("value") for choice in choices] == LABELS

    def test_cvat_decodes_the_pixels(self, label_map, tmp_path):
        decode_mask = pytest.importorskip("cvat_sdk.masks", reason="CI installs it").decode_mask
        (path,) = result(label_map).export(tmp_path, "cvat", name="photo")
        root = ElementTree.parse(path).getroot()
        assert root.findtext("version") == "1.1"
        assert [name.text for name in root.findall("meta/task/labels/label/name")] == LABELS
        (image,) = root.findall("image")
        assert image.get("name") == "photo.png"
        height, width = label_map.shape
        parts = []
        for mask in image.findall("mask"):
            left, top = int(mask.get("left")), int(mask.get("top"))
            right, bottom = left + int(mask.get("width")) - 1, top + int(mask.get("height")) - 1
            encoded = [*map(int, mask.get("rle").split(", ")), left, top, right, bottom]
            decoded = decode_mask(encoded, image_width=width, image_height=height)
            parts.append((LABELS.index(mask.get("label")), decoded))
        assert (drawn(label_map.shape, parts) == masks(label_map)).all()

    @staticmethod
    def read_labelme(path):
        """As labelme's shape_to_mask draws polygons, and as its mask shapes lie between two pixels."""
        content = json.loads(path.read_text(encoding="utf-8"))
        shape = content["imageHeight"], content["imageWidth"]
        parts = []
        for entry in content["shapes"]:
            mask = Image.new("1", shape[::-1])
            if entry["shape_type"] == "polygon":
                ImageDraw.Draw(mask).polygon([tuple(point) for point in entry["points"]], outline=1, fill=1)
            else:
                (left, top), (right, bottom) = entry["points"]
                given = Image.open(io.BytesIO(base64.b64decode(entry["mask"])))
                assert given.size == (right - left + 1, bottom - top + 1)
                mask.paste(given, (left, top))
            parts.append((LABELS.index(entry["label"]), mask))
        return content, drawn(shape, parts)

    def test_labelme_draws_the_pixels(self, label_map, tmp_path):
        (path,) = result(label_map).export(tmp_path, "labelme", tolerance=0)
        content, got = self.read_labelme(path)
        assert (got == masks(label_map)).all()
        picture = Image.open(io.BytesIO(base64.b64decode(content["imageData"])))
        assert picture.size == label_map.shape[::-1]

    @pytest.mark.parametrize("name", SMOOTH)
    def test_labelme_draws_nearly_the_pixels(self, name, tmp_path):
        (path,) = result(MAPS[name]).export(tmp_path / "a/b.json", "labelme", source=tmp_path / "in/photo.jpg")
        content, got = self.read_labelme(path)
        assert ious(got, masks(MAPS[name])).min() > 0.98
        assert content["imagePath"] == "../in/photo.jpg" and content["imageData"] is None


class TestGeoJson:
    @pytest.mark.parametrize(("tolerance", "least"), [(0, 1.0), (None, 0.98)])
    def test_in_pixels(self, label_map, tmp_path, tolerance, least):
        from rasterio.features import rasterize

        if tolerance is None and label_map is MAPS["specks"]:
            pytest.skip("lines of one pixel have no simpler outline")
        options = {} if tolerance is None else {"tolerance": tolerance}
        (path,) = result(label_map).export(tmp_path, "geojson", **options)
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        parts = [
            (f["properties"]["index"], rasterize([f["geometry"]], label_map.shape, dtype="uint8")) for f in features
        ]
        assert ious(drawn(label_map.shape, parts), masks(label_map)).min() >= least
        assert {f["properties"]["label"] for f in features} == {LABELS[i] for i in np.unique(label_map) if i >= 0}

    def test_of_a_geotiff_in_degrees(self, tmp_path):
        import rasterio
        from rasterio.features import rasterize
        from rasterio.warp import transform_geom

        label_map = blobs()
        place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)  # UTM 33 N, 10 m a pixel
        profile = {"driver": "GTiff", "height": 150, "width": 200, "count": 3, "dtype": "uint8"}
        with rasterio.open(tmp_path / "scene.tif", "w", crs="EPSG:32633", transform=place, **profile) as file:
            file.write(np.asarray(result(label_map).picture).transpose(2, 0, 1))
        (path,) = result(label_map).export(tmp_path, "geojson", source=tmp_path / "scene.tif")
        features = json.loads(path.read_text())["features"]
        assert path.name == "scene.geojson"
        longitudes = [point[0] for point in features[0]["geometry"]["coordinates"][0]]
        assert 14.9 < min(longitudes) < max(longitudes) < 15.1  # the zone's middle is at 15 degrees
        parts = []
        for feature in features:
            back = transform_geom("EPSG:4326", "EPSG:32633", feature["geometry"])
            drawn_there = rasterize([back], label_map.shape, transform=place, dtype="uint8")
            parts.append((feature["properties"]["index"], drawn_there))
        assert ious(drawn(label_map.shape, parts), masks(label_map)).min() > 0.98

    def test_a_tiff_without_a_place_is_in_pixels(self, tmp_path):
        made = result(MAPS["one class"])
        made.picture.save(tmp_path / "plain.tif")
        (path,) = made.export(tmp_path, "geojson", source=tmp_path / "plain.tif")
        (feature,) = json.loads(path.read_text())["features"]
        assert sorted(map(tuple, feature["geometry"]["coordinates"][0][:-1])) == [(0, 0), (0, 30), (20, 0), (20, 30)]


class TestPicturesAndTables:
    def test_masks_are_the_pixels(self, label_map, tmp_path):
        paths = result(label_map).export(tmp_path, "png")
        got = drawn(label_map.shape, [(int(path.name.split("-")[0]), np.asarray(Image.open(path))) for path in paths])
        assert (got == masks(label_map)).all()

    def test_cut_outs_are_transparent_around_the_pixels(self, label_map, tmp_path):
        made = result(label_map)
        for path, instance in zip(made.export(tmp_path, "cutouts"), made.instances("classes"), strict=True):
            cut = np.asarray(Image.open(path))
            left, top, right, bottom = instance.box
            inside = np.asarray(made.picture)[top:bottom, left:right]
            assert (cut[..., 3] == 255 * instance.mask).all()
            assert (cut[..., :3][instance.mask] == inside[instance.mask]).all()

    def test_an_earlier_export_leaves_nothing(self, tmp_path):
        result(MAPS["blobs"]).export(tmp_path, "cutouts", regions="components")
        (tmp_path / "picture/0-mine.png").write_bytes(b"not one of ours")
        paths = result(MAPS["one class"]).export(tmp_path, "cutouts")
        assert {*(tmp_path / "picture").iterdir()} == {*paths, tmp_path / "picture/0-mine.png"}

    def test_scores_are_the_scores(self, tmp_path):
        made = result(blobs())
        (path,) = made.export(tmp_path / "a.npy", "scores")
        np.testing.assert_array_equal(np.load(path), made.scores)

    def test_the_table_adds_up(self, label_map, tmp_path):
        import csv

        (path,) = result(label_map).export(tmp_path, "csv", source="in/a.jpg")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["label"] for row in rows] == [*LABELS, ""] and {row["picture"] for row in rows} == {"in/a.jpg"}
        assert sum(int(row["pixels"]) for row in rows) == label_map.size
        assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
        assert all((row["score"] != "") == (int(row["pixels"]) > 0 and row["index"] != "-1") for row in rows)
