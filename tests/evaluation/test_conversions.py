"""Conversions, on generated files: right labels, resumed where they stopped, whole files only, problems named."""

import json

import numpy as np
import pytest
from PIL import Image

from sclip_plugin.evaluation import read_mask
from sclip_plugin.evaluation.conversions import SourceError, convert_cityscapes, convert_coco_object, convert_coco_stuff
from sclip_plugin.evaluation.datasets import DatasetError
from sclip_plugin.evaluation.pascal_context import CONTEXT_59_IDS, convert_pascal_context, decode_rle
from sclip_plugin.protocols import load_benchmark


def save(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


def read(path):
    return np.asarray(Image.open(path)).tolist()


class TestCityscapes:
    SOURCE = "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"
    TARGET = "gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"

    def test_labels(self, tmp_path):
        # road, sidewalk, parking, person, rider, caravan, bicycle, unlabelled, license plate's neighbour
        save(tmp_path / self.SOURCE, [[7, 8, 9], [24, 25, 29], [33, 0, 31]])
        report = convert_cityscapes(tmp_path)
        assert (report.written, report.there, report.problems) == (1, 0, ())
        assert read(tmp_path / self.TARGET) == [[0, 1, 255], [11, 12, 255], [18, 255, 16]]

    def test_only_the_splits_asked_for(self, tmp_path):
        save(tmp_path / self.SOURCE, [[7]])
        save(tmp_path / self.SOURCE.replace("val", "train"), [[7]])
        assert convert_cityscapes(tmp_path).written == 1
        assert convert_cityscapes(tmp_path, splits=("train", "val")).there == 1

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_bomb_among_them_does_not_stop_the_rest(self, tmp_path):
        save(tmp_path / self.SOURCE, [[7, 8]])
        bomb = tmp_path / self.SOURCE.replace("000019", "000020")
        Image.new("L", (13000, 13000)).save(bomb)
        report = convert_cityscapes(tmp_path)
        assert report.written == 1
        assert [(p.kind, p.name) for p in report.problems] == [("mask unreadable", bomb.name)]
        assert "169,000,000 pixels" in report.problems[0].detail


# Values of COCO-Stuff's pixel maps and what they become: (in COCO-Stuff, in COCO-Object).
COCO = {
    0: (0, 1),  # person
    10: (10, 11),  # fire hydrant; category 12, street sign, was never annotated
    12: (11, 12),  # stop sign
    89: (79, 80),  # toothbrush
    91: (80, 0),  # banner, the first stuff class
    181: (170, 0),  # wood, the last
    255: (255, 0),  # no label
}


class TestCoco:
    @pytest.mark.parametrize("folder", ["annotations", "stuffthingmaps"])
    def test_labels(self, tmp_path, folder):
        save(tmp_path / folder / "val2017" / "000000000139.png", [list(COCO)])
        assert convert_coco_stuff(tmp_path).written == 1
        assert convert_coco_object(tmp_path).written == 1
        made = tmp_path / "annotations" / "val2017"
        assert read(made / "000000000139_labelTrainIds.png") == [[stuff for stuff, _ in COCO.values()]]
        assert read(made / "000000000139_instanceTrainIds.png") == [[thing for _, thing in COCO.values()]]

    def test_every_class_is_reached_once(self, tmp_path):
        values = [v for v in range(182) if v + 1 not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]
        save(tmp_path / "annotations/val2017/1.png", [values])
        convert_coco_stuff(tmp_path)
        convert_coco_object(tmp_path)
        assert read(tmp_path / "annotations/val2017/1_labelTrainIds.png") == [list(range(171))]
        assert read(tmp_path / "annotations/val2017/1_instanceTrainIds.png") == [[*range(1, 81), *[0] * 91]]

    def test_made_masks_are_no_sources(self, tmp_path):
        save(tmp_path / "annotations/val2017/1.png", [[0]])
        for convert in (convert_coco_stuff, convert_coco_object):
            assert convert(tmp_path).written == 1
            assert convert(tmp_path).there == 1

    def test_the_class_names_fit(self, tmp_path):
        save(tmp_path / "annotations/val2017/1.png", [[16, 95]])  # categories 17, cat, and 96, building-other
        convert_coco_stuff(tmp_path)
        benchmark = load_benchmark("coco_stuff")
        labels = read_mask(tmp_path / "annotations/val2017/1_labelTrainIds.png", benchmark)
        assert [benchmark.class_names[label] for label in labels[0]] == ["cat", "building-other"]


def compress(mask):
    """A mask as COCO's compressed run-length code; the counterpart of what is tested."""
    flat = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    if flat[0]:
        lengths = [0, *lengths]
    text = ""
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != (-1 if code & 16 else 0)
            text += chr((code | 32 if more else code) + 48)
    return {"size": list(np.shape(mask)), "counts": text}, {"size": list(np.shape(mask)), "counts": lengths}


@pytest.mark.parametrize("seed", range(20))
def test_run_length_codes(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 90, 2))) < rng.choice([0.02, 0.5, 0.98])
    for segmentation in compress(mask):
        np.testing.assert_array_equal(decode_rle(segmentation, mask.shape), mask)


def test_a_run_length_code_of_pycocotools():
    # pycocotools.mask.encode of a 4 x 5 mask whose rows 1-2, columns 1-3 are set
    inside = decode_rle({"size": [4, 5], "counts": "5220003"}, (4, 5))
    expected = np.zeros((4, 5), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(inside, expected)


class TestPascalContext:
    def detail_json(self, path, cut=False):
        shape = (6, 8)
        sky, cat, other = (np.zeros(shape, bool) for _ in range(3))
        sky[:3], cat[2:5, 2:6], other[5] = True, True, True
        regions = [
            (sky, 360),
            (cat, 65),
            (other, 1),
        ]  # the cat is painted over the sky; 1, accordion, is none of the 59
        content = {
            "images": [
                {"image_id": 2008000002, "file_name": "2008_000002.jpg", "height": 6, "width": 8, "phase": "val"},
                {"image_id": 2008000003, "file_name": "2008_000003.jpg", "height": 6, "width": 8, "phase": "train"},
                {"image_id": 2008000004, "file_name": "2008_000004.jpg", "height": 6, "width": 8, "phase": "test"},
            ],
            "annos_segmentation": [
                {"image_id": image, "category_id": label, "segmentation": compress(mask)[index]}
                for index, image in enumerate((2008000002, 2008000003))
                for mask, label in regions
            ],
        }
        path.write_text(json.dumps(content)[: -20 if cut else None])
        expected = np.zeros(shape, int)
        names = load_benchmark("context60").class_names
        expected[sky], expected[cat] = names.index("sky"), names.index("cat")
        return expected.tolist()

    @pytest.mark.parametrize(
        "content",
        [
            {"images": 3, "annos_segmentation": []},
            {"images": [3], "annos_segmentation": []},
            {"images": [{"phase": "val"}], "annos_segmentation": []},
            {"images": [{"phase": "val", "file_name": 3, "image_id": 1}], "annos_segmentation": []},
            {
                "images": [{"phase": "val", "file_name": "a", "image_id": [1], "height": 1, "width": 1}],
                "annos_segmentation": [],
            },
            {"images": [], "annos_segmentation": [3]},
        ],
    )
    def test_a_json_of_another_form_is_said(self, tmp_path, content):
        (tmp_path / "trainval_merged.json").write_text(json.dumps(content))
        with pytest.raises(SourceError, match="not as the Detail API writes it"):
            convert_pascal_context(tmp_path)

    def test_from_the_merged_json(self, tmp_path):
        expected = self.detail_json(tmp_path / "trainval_merged.json")
        report = convert_pascal_context(tmp_path)
        assert (report.written, report.problems) == (2, ())
        for name in ("2008_000002", "2008_000003"):
            assert read(tmp_path / "SegmentationClassContext" / f"{name}.png") == expected
        splits = tmp_path / "ImageSets" / "SegmentationContext"
        assert (splits / "val.txt").read_text() == "2008_000002\n"
        assert (splits / "train.txt").read_text() == "2008_000003\n"
        assert convert_pascal_context(tmp_path).there == 2

    def test_a_json_that_is_cut_off(self, tmp_path):
        self.detail_json(tmp_path / "trainval_merged.json", cut=True)
        with pytest.raises(SourceError, match="is not JSON, or is cut off"):
            convert_pascal_context(tmp_path)

    def test_a_json_of_another_kind(self, tmp_path):
        (tmp_path / "instances.json").write_text('{"images": [], "annotations": []}')
        with pytest.raises(SourceError, match="expected trainval_merged.json"):
            convert_pascal_context(tmp_path, tmp_path / "instances.json")

    def mat_files(self, tmp_path):
        savemat = pytest.importorskip("scipy.io", reason="SciPy reads .mat files").savemat
        (tmp_path / "trainval").mkdir()
        labels = np.array([[2, 458, 0], [1, 431, 284]], np.uint16)  # aeroplane, wood, none; accordion, unknown, person
        for name in ("2008_000002", "2008_000003"):
            savemat(tmp_path / "trainval" / f"{name}.mat", {"LabelMap": labels})
        main = tmp_path / "ImageSets" / "Main"
        main.mkdir(parents=True)
        (main / "val.txt").write_text("2008_000002\n2008_000009\n")
        (main / "train.txt").write_text("2008_000003  1\n")
        return [[1, 59, 0], [0, 0, 37]]

    def test_from_mat_files(self, tmp_path):
        expected = self.mat_files(tmp_path)
        assert convert_pascal_context(tmp_path).written == 2
        mask = tmp_path / "SegmentationClassContext" / "2008_000002.png"
        assert read(mask) == expected
        assert load_benchmark("context60").class_names[37] == "person"
        reduced = read_mask(mask, load_benchmark("context59"))
        assert reduced.tolist() == [[0, 58, 255], [255, 255, 36]]
        splits = tmp_path / "ImageSets" / "SegmentationContext"
        assert (splits / "val.txt").read_text() == "2008_000002\n"
        assert (splits / "train.txt").read_text() == "2008_000003\n"

    def test_a_label_list_that_numbers_otherwise_is_refused(self, tmp_path):
        self.mat_files(tmp_path)
        names = dict(zip(CONTEXT_59_IDS, load_benchmark("context59").class_names, strict=True))
        lines = [f"{number}: {names.get(number, f'label {number}')}" for number in range(1, 460)]
        (tmp_path / "labels.txt").write_text("\n".join(lines))
        convert_pascal_context(tmp_path)
        (tmp_path / "labels.txt").write_text("\n".join(lines).replace("2: aeroplane", "2: accordion"))
        with pytest.raises(SourceError, match="calls label 2 'accordion', not 'aeroplane', and so 1 of 59"):
            convert_pascal_context(tmp_path)

    def test_broken_mat_files_are_named(self, tmp_path):
        self.mat_files(tmp_path)
        (tmp_path / "trainval" / "2008_000003.mat").write_bytes(b"not a mat file")
        report = convert_pascal_context(tmp_path)
        assert report.written == 1
        assert [problem.name for problem in report.problems] == ["2008_000003.mat"]

    def test_without_any_split(self, tmp_path):
        self.mat_files(tmp_path)
        (tmp_path / "ImageSets" / "Main" / "val.txt").unlink()
        with pytest.raises(DatasetError, match="do not say which pictures are for validation"):
            convert_pascal_context(tmp_path)

    def test_without_scipy(self, tmp_path, monkeypatch):
        self.mat_files(tmp_path)
        monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
        with pytest.raises(ImportError, match="pip install scipy"):
            convert_pascal_context(tmp_path)

    def test_without_annotations(self, tmp_path):
        with pytest.raises(DatasetError, match="trainval_merged.json, .*trainval/.*found nothing"):
            convert_pascal_context(tmp_path)


class TestAnyConversion:
    def sources(self, tmp_path, count=5):
        folder = tmp_path / "gtFine" / "val" / "ulm"
        for index in range(count):
            save(folder / f"ulm_{index}_gtFine_labelIds.png", [[7, index]])
        return folder

    def test_goes_on_where_it_stopped(self, tmp_path):
        folder = self.sources(tmp_path)
        seen = []

        def stop(done, of):
            seen.append((done, of))
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert_cityscapes(tmp_path, progress=stop, workers=1)
        first = {path: path.stat().st_mtime_ns for path in folder.glob("*_labelTrainIds.png")}
        assert len(first) >= 2
        report = convert_cityscapes(tmp_path, progress=lambda *now: seen.append(now))
        assert report.written + report.there == 5 and report.there == len(first)
        assert all(path.stat().st_mtime_ns == then for path, then in first.items())
        assert seen[-1] == (5, 5)
        assert convert_cityscapes(tmp_path, overwrite=True).written == 5

    def test_a_mask_is_whole_or_not_there(self, tmp_path, monkeypatch):
        folder = self.sources(tmp_path)

        def die(self, file, **options):
            file.write(b"half a picture")
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", die)
            with pytest.raises(OSError, match="No space left"):
                convert_cityscapes(tmp_path)
        assert len(list(folder.iterdir())) == 5
        assert convert_cityscapes(tmp_path).written == 5

    def test_what_cannot_be_converted_is_counted_and_named(self, tmp_path):
        folder = self.sources(tmp_path)
        save(folder / "ulm_0_gtFine_labelIds.png", [[7, 40]])
        (folder / "ulm_1_gtFine_labelIds.png").write_bytes(b"\x89PNG\r\n")
        Image.new("RGB", (2, 2)).save(folder / "ulm_2_gtFine_labelIds.png")
        report = convert_cityscapes(tmp_path)
        assert report.written == 2
        assert {(p.kind, p.name) for p in report.problems} == {
            ("labels out of range", "ulm_0_gtFine_labelIds.png"),
            ("mask unreadable", "ulm_1_gtFine_labelIds.png"),
            ("mask unreadable", "ulm_2_gtFine_labelIds.png"),
        }
        assert "holds 40" in str(report) and "2 x mask unreadable" in str(report)
        assert not (folder / "ulm_0_gtFine_labelTrainIds.png").exists()

    @pytest.mark.parametrize("convert", [convert_cityscapes, convert_coco_stuff, convert_coco_object])
    def test_a_wrong_folder_says_what_was_looked_for_and_found(self, tmp_path, convert):
        (tmp_path / "holiday").mkdir()
        with pytest.raises(DatasetError, match=r"\*.*png; found holiday/"):
            convert(tmp_path)
        with pytest.raises(DatasetError, match="is not a folder"):
            convert(tmp_path / "absent")
