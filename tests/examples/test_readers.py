"""Annotations are read back as the label maps that were written, and every trap of annotated pictures is known."""

import json

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, LabelError
from sclip_plugin.examples.reading import read_examples
from sclip_plugin.imaging.opening import ORIENTATION

SCENE = sp.draw_scene(seed=11)
NAMES = list(SCENE.labels)


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def names_of(examples, place=0):
    """The label map of a picture, by names; "" and "?" for no label and for what is not to be learnt from."""
    label_map = examples.items[place].label_map(examples.categories)
    return np.array([*examples.categories, "?", ""])[label_map]


def truth():
    return np.array(NAMES)[SCENE.label_map]


def ious(found, expected):
    return min(((found == n) & (expected == n)).sum() / ((found == n) | (expected == n)).sum() for n in NAMES)


EXPORTS = {
    "coco": ("COCO JSON", 1.0), "coco-polygons": ("COCO JSON", 0.95), "labelme": ("labelme", 0.85),
    "labelstudio": ("Label Studio", 1.0), "cvat": ("CVAT", 1.0), "yolo": ("YOLO", 0.85), "png": ("PNG masks", 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTS)
def test_our_own_exports(name, tmp_path):
    """Label Studio's configuration and YOLO's pictures lie beside the annotations and are none."""
    kind, least = EXPORTS[name]
    result = sp.Segmentation(NAMES, SCENE.label_map, SCENE.picture)
    if name != "yolo":
        SCENE.picture.save(tmp_path / "scene.png")
    result.export(tmp_path, name, name="scene", source=tmp_path / "scene.png")
    examples = read_examples(tmp_path)
    assert examples.kind == kind and len(examples.items) == 1 and not examples.problems
    assert set(examples.categories) >= set(NAMES)
    assert ious(names_of(examples), truth()) >= least


def test_results_of_segmenting(tmp_path):
    SCENE.picture.save(tmp_path / "scene.png")
    label_map = np.where(SCENE.label_map == 0, -1, SCENE.label_map)
    sp.Segmentation(NAMES, label_map, SCENE.picture).save(tmp_path / "out", "scene")
    examples = read_examples([tmp_path / "out", tmp_path / "scene.png"])
    np.testing.assert_array_equal(names_of(examples), np.where(SCENE.label_map == 0, "", truth()))


class TestMasks:
    """PNG: a palette, ids with gaps, 255, and names from a file or in the order of the labels."""

    @pytest.mark.parametrize("layout", ["beside", "folders", "marked", "grey"])
    @pytest.mark.parametrize("palette", [True, False])
    def test_where_they_are(self, layout, palette, tmp_path):
        picture, mask = {
            "beside": ("a.jpg", "a.png"), "folders": ("images/a.png", "masks/a.png"),
            "marked": ("a.png", "a_mask.png"), "grey": ("a.png", "a_mask.png"),
        }[layout]  # fmt: skip
        for path in (picture, mask):
            (tmp_path / path).parent.mkdir(exist_ok=True)
        SCENE.picture.convert("L" if layout == "grey" else "RGB").save(tmp_path / picture)
        made = Image.fromarray(SCENE.label_map.astype(np.uint8))
        if palette:
            made.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
        made.save(tmp_path / mask)
        np.testing.assert_array_equal(names_of(read_examples(tmp_path, NAMES)), truth())

    def test_gaps_in_ids_and_void(self, tmp_path):
        SCENE.picture.save(tmp_path / "a.jpg")
        ids = np.array([7, 90, 3, 12, 50, 51, 52, 53])[SCENE.label_map].astype(np.uint8)
        ids[:9], ids[9:20] = 255, 0
        Image.fromarray(ids).save(tmp_path / "a.png")
        lines = [f"{number}: {name}" for number, name in zip([7, 90, 3, 12, 50, 51, 52, 53], NAMES, strict=False)]
        (tmp_path / "classes.txt").write_text("\n".join(lines))
        found = names_of(read_examples(tmp_path))
        assert (found[:9] == "?").all() and (found[9:20] == "").all() and (found[20:] == truth()[20:]).all()

    @pytest.mark.parametrize("text", ['{"cat": 3}', '{"3": "cat"}'])
    def test_names_in_json(self, text, tmp_path):
        SCENE.picture.save(tmp_path / "a.jpg")
        Image.fromarray(np.full(SCENE.label_map.shape, 3, np.uint8)).save(tmp_path / "a.png")
        (tmp_path / "classes.json").write_text(text)
        assert set(names_of(read_examples(tmp_path)).ravel()) == {"cat"}

    def test_ids_without_a_name(self, tmp_path):
        SCENE.picture.save(tmp_path / "a.jpg")
        Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(LabelError, match="nothing says what they mean"):
            read_examples(tmp_path)
        with pytest.raises(LabelError, match=r"holds the ids \[9\]"):
            read_examples(tmp_path, ["cat"])

    def test_a_picture_without_a_mask_is_said(self, tmp_path):
        for name in ("a.jpg", "b.jpg"):
            SCENE.picture.save(tmp_path / name)
        Image.fromarray(np.zeros(SCENE.label_map.shape, np.uint8)).save(tmp_path / "a.png")
        examples = read_examples(tmp_path, NAMES)
        assert len(examples.items) == 1 and examples.problems == ["b: no mask"]


def coco(folder, annotations, size=(40, 30), categories=("cat", "dog"), **picture):
    """A COCO file of one picture of (width, height)."""
    content = {
        "images": [{"id": 17, "file_name": "a.jpg", "width": size[0], "height": size[1], **picture}],
        "categories": [{"id": 10 * (i + 1) + 1, "name": name} for i, name in enumerate(categories)],
        "annotations": [{"id": i, "image_id": 17, "iscrowd": 0, **each} for i, each in enumerate(annotations)],
    }
    (folder / "instances.json").write_text(json.dumps(content))


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


class TestTraps:
    def test_crowds_and_overlaps(self, tmp_path):
        """A crowd is not learnt from, but what lies on it is; a smaller thing lies on a larger one in either order."""
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
        runs = {"size": [30, 40], "counts": [0, 600, 600]}  # the left half
        coco(tmp_path, [
            {"category_id": 11, "segmentation": box(5, 5, 15, 15)},
            {"category_id": 21, "segmentation": box(0, 0, 30, 20)},
            {"category_id": 21, "segmentation": runs, "iscrowd": 1},
        ])  # fmt: skip
        found = names_of(read_examples(tmp_path))
        assert (found[5:15, 5:15] == "cat").all() and (found[:20, 16:30] == "dog").all()
        assert (found[21:, :20] == "?").all() and (found[21:, 20:] == "").all()

    @pytest.mark.parametrize("annotated", ["upright", "raw"])
    def test_exif_turns_the_picture(self, annotated, tmp_path):
        """By the size of the annotation: it was drawn on the picture as it is seen, or as it lies in the file."""
        upright = Image.new("RGB", (30, 40))  # seen upright
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif(6))
        shape = box(0, 0, 10, 5) if annotated == "upright" else box(0, 20, 5, 30)
        coco(tmp_path, [{"category_id": 11, "segmentation": shape}], (30, 40) if annotated == "upright" else (40, 30))
        examples = read_examples(tmp_path)
        found = names_of(examples)
        expected = np.full((40, 30), "", dtype=object)
        expected[:5, :10] = "cat"
        assert (found == expected).mean() > 0.98 and not examples.items[0].may_be_turned()

    def test_half_a_turn_is_said(self, tmp_path):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif(3))
        coco(tmp_path, [{"category_id": 11, "segmentation": box(0, 0, 10, 5)}])
        assert read_examples(tmp_path).items[0].may_be_turned()

    def test_exif_of_the_mask_alone(self, tmp_path):
        """A mask turned as its own EXIF data say is that of its upright picture."""
        SCENE.picture.save(tmp_path / "a.jpg")
        made = Image.fromarray(SCENE.label_map.astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)
        made.save(tmp_path / "a.png", exif=exif(6))
        np.testing.assert_array_equal(names_of(read_examples(tmp_path, NAMES)), truth())

    def test_a_mask_of_another_size(self, tmp_path):
        SCENE.picture.save(tmp_path / "a.jpg")
        Image.fromarray(SCENE.label_map[::2, ::2].astype(np.uint8)).save(tmp_path / "a.png")
        np.testing.assert_array_equal(names_of(read_examples(tmp_path, NAMES)), truth()[::2, ::2])
        Image.fromarray(SCENE.label_map[::2].astype(np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(FileFormatError, match="216 x 72, its picture 216 x 144"):
            names_of(read_examples(tmp_path, NAMES))

    def test_a_picture_without_any_label(self, tmp_path):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
        coco(tmp_path, [])
        assert (names_of(read_examples(tmp_path)) == "").all()

    def test_boxes_are_no_outlines(self, tmp_path):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
        coco(tmp_path, [{"category_id": 11, "segmentation": [], "bbox": [0, 0, 9, 9]}])
        assert "1 annotations without an outline" in read_examples(tmp_path).problems[0]

    def test_a_picture_that_is_not_there(self, tmp_path):
        coco(tmp_path, [])
        assert "a.jpg, which instances.json names" in read_examples(tmp_path).problems[0]

    def test_several_forms(self, tmp_path):
        coco(tmp_path, [])
        (tmp_path / "b.json").write_text('{"shapes": [], "imagePath": "b.jpg"}')
        with pytest.raises(FileFormatError, match=r"several forms .*COCO JSON: .*labelme: .*b.json"):
            read_examples(tmp_path)

    @pytest.mark.parametrize("text", ["{", '{"images": 3, "annotations": [], "categories": []}'])
    def test_broken_files(self, text, tmp_path):
        (tmp_path / "instances.json").write_text(text)
        with pytest.raises(FileFormatError, match="instances.json"):
            read_examples(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileFormatError, match="no annotations were found"):
            read_examples(tmp_path)
        with pytest.raises(FileFormatError, match="is not there"):
            read_examples(tmp_path / "nowhere")


class TestPrograms:
    def test_label_studio_polygons_and_uploads(self, tmp_path):
        """Points are percentages; an upload has a hash in front of its name; what was cancelled does not count."""
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
        entry = {"original_width": 40, "original_height": 30, "type": "polygonlabels"}
        value = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["cat"]}
        other = {**entry, "value": {**value, "polygonlabels": ["dog"]}}
        annotations = [{"was_cancelled": True, "result": [other]}, {"result": [{**entry, "value": value}]}]
        tasks = [{"data": {"image": "/data/upload/1/0123abcd-a.jpg"}, "annotations": annotations}]
        (tmp_path / "tasks.json").write_text(json.dumps(tasks))
        examples = read_examples(tmp_path)
        found = names_of(examples)
        assert examples.categories == ["cat"] and (found[:, :20] == "cat").all() and (found[:, 22:] == "").all()

    def test_cvat_polygons(self, tmp_path):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
        (tmp_path / "annotations.xml").write_text(
            '<?xml version="1.0" encoding="utf-8"?><annotations><image id="0" name="a.jpg" width="40" height="30">'
            '<polygon label="cat" points="0,0;19,0;19,29;0,29"/><box label="dog" xtl="0" ytl="0" xbr="3" ybr="3"/>'
            "</image></annotations>"
        )
        examples = read_examples(tmp_path)
        assert (names_of(examples)[:, :20] == "cat").all() and "1 annotations" in examples.problems[0]

    def test_a_picture_inside_labelme(self, tmp_path):
        result = sp.Segmentation(NAMES, SCENE.label_map, SCENE.picture)
        result.export(tmp_path, "labelme", name="scene", tolerance=0)
        examples = read_examples(tmp_path)
        assert isinstance(examples.items[0].picture, bytes) and ious(names_of(examples), truth()) > 0.99
