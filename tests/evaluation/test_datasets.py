"""Readers of the eight layouts: on generated files, on the real pictures of shared/data, and on broken data sets."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sclip_plugin.evaluation.checking import check_dataset
from sclip_plugin.evaluation.datasets import DatasetError, MaskError, find_samples, picture_size, read_mask
from sclip_plugin.protocols import list_benchmarks, load_benchmark

from .layouts import REAL_DATA, SHARED_DATA, file_labels, fill, write_dataset, write_sample


@pytest.mark.parametrize("name", list_benchmarks())
def test_every_layout_is_read(name, tmp_path):
    benchmark = load_benchmark(name)
    names = write_dataset(benchmark, tmp_path)
    samples, problems = find_samples(benchmark, tmp_path)
    assert problems == []
    assert sorted(sample.name for sample in samples) == sorted(names)
    for sample in samples:
        size = picture_size(sample.image_path)
        mask = read_mask(sample.mask_path, benchmark, size)
        labels = np.asarray(Image.open(sample.mask_path)).astype(int)
        expected = np.where(labels == 255, 255, labels)
        if benchmark.reduce_zero_label:
            expected = np.where((labels == 0) | (labels == 255), 255, labels - 1)
        np.testing.assert_array_equal(mask, expected)
    assert check_dataset(benchmark, tmp_path).ok


@pytest.mark.parametrize("name", REAL_DATA)
def test_real_pictures_are_read(name):
    root = SHARED_DATA / REAL_DATA[name]
    if not root.is_dir():
        pytest.skip(f"the sample pictures of {name} (shared/data) are not beside this checkout")
    report = check_dataset(load_benchmark(name), root)
    assert report.ok, str(report)
    assert report.pictures == {"voc21": 6, "voc20": 6, "ade20k": 3, "coco_object": 2}[name]
    assert sum(report.pixels.values()) > 0.5 * (sum(report.pixels.values()) + report.ignored_pixels) or name == "voc20"


def test_what_is_wrong_is_counted_and_named(tmp_path):
    benchmark = load_benchmark("voc21")
    names = write_dataset(benchmark, tmp_path, pictures=9)
    image = [tmp_path / fill(benchmark.images, name) for name in names]
    mask = [tmp_path / fill(benchmark.masks, name) for name in names]
    labels = file_labels(benchmark, (33, 40), 0)

    labels[20, 20] = 21
    write_sample(benchmark, tmp_path, names[0], (40, 33), labels)  # one pixel of a class that does not exist
    Image.open(mask[1]).crop((0, 0, 10, 10)).save(mask[1])  # another size than its picture
    image[2].write_bytes(image[2].read_bytes()[:-200])  # cut off
    mask[3].write_bytes(mask[3].read_bytes()[:60])  # cut off
    mask[4].unlink()
    image[5].unlink()
    Image.open(mask[6]).convert("RGB").save(mask[6])
    with open(tmp_path / benchmark.split, "a") as split:
        split.write(f"{names[7]}\nabsent\n")

    report = check_dataset(benchmark, tmp_path)
    assert {(p.kind, p.name) for p in report.problems} == {
        ("labels out of range", names[0]),
        ("sizes differ", names[1]),
        ("picture unreadable", names[2]),
        ("mask unreadable", names[3]),
        ("mask missing", names[4]),
        ("picture missing", names[5]),
        ("mask unreadable", names[6]),
        ("listed twice in the split", names[7]),
        ("picture missing", "absent"),
    }
    assert report.counts["mask unreadable"] == 2
    text = str(report)
    assert "2 x mask unreadable" in text and "holds 21, which no class has" in text and "9 problems" in text
    assert "is 10 x 10, its picture 47 x 36" in text
    assert report.to_dict()["ok"] is False


def test_without_a_split_partners_are_missed_on_both_sides(tmp_path):
    benchmark = load_benchmark("cityscapes")
    names = write_dataset(benchmark, tmp_path)
    (tmp_path / fill(benchmark.images, names[0])).unlink()
    (tmp_path / fill(benchmark.masks, names[1])).unlink()
    samples, problems = find_samples(benchmark, tmp_path)
    assert sorted(sample.name for sample in samples) == sorted(names[2:])
    assert {(p.kind, p.name) for p in problems} == {("mask without a picture", names[0]), ("mask missing", names[1])}
    assert "gtFine/val/city1/pic_001_gtFine_labelTrainIds.png" in str(problems)


def test_the_split_says_which_pictures_and_in_which_order(tmp_path):
    benchmark = load_benchmark("voc21")
    names = write_dataset(benchmark, tmp_path)
    (tmp_path / benchmark.split).write_text(f"{names[2]}\n\n{names[0]}\n")
    samples, problems = find_samples(benchmark, tmp_path)
    assert [sample.name for sample in samples] == [names[2], names[0]] and problems == []


class TestAWrongFolder:
    """The error says what was looked for and what was found."""

    def test_that_does_not_exist(self, tmp_path):
        with pytest.raises(DatasetError, match=r"absent' is not a folder.*JPEGImages/\*\.jpg"):
            find_samples(load_benchmark("voc21"), tmp_path / "absent")

    def test_above_the_right_one(self, tmp_path):
        write_dataset(load_benchmark("voc21"), tmp_path / "VOCdevkit" / "VOC2012")
        with pytest.raises(DatasetError, match=r"Found in .*: VOCdevkit/.*Did you mean '.*VOC2012'"):
            find_samples(load_benchmark("voc21"), tmp_path)

    def test_of_another_data_set(self, tmp_path):
        write_dataset(load_benchmark("ade20k"), tmp_path)
        with pytest.raises(DatasetError, match=r"leftImg8bit/val/.* \(found 0\).*annotations/, images/"):
            find_samples(load_benchmark("cityscapes"), tmp_path)

    def test_before_conversion(self, tmp_path):
        benchmark = load_benchmark("cityscapes")
        for name in write_dataset(benchmark, tmp_path):
            mask = tmp_path / fill(benchmark.masks, name)
            mask.rename(mask.with_name(mask.name.replace("labelTrainIds", "labelIds")))
        with pytest.raises(DatasetError, match="can be made from what is there: sclip convert cityscapes"):
            find_samples(benchmark, tmp_path)

    def test_without_its_split(self, tmp_path):
        write_dataset(load_benchmark("voc21"), tmp_path)
        (tmp_path / load_benchmark("voc21").split).unlink()
        with pytest.raises(DatasetError, match=r"val\.txt' does not exist.*ImageSets/, JPEGImages/"):
            find_samples(load_benchmark("voc21"), tmp_path)

    def test_with_an_empty_split(self, tmp_path):
        write_dataset(load_benchmark("voc21"), tmp_path)
        (tmp_path / load_benchmark("voc21").split).write_text("\n")
        with pytest.raises(DatasetError, match=r"val\.txt' is empty"):
            find_samples(load_benchmark("voc21"), tmp_path)

    def test_whose_pictures_and_masks_do_not_pair(self, tmp_path):
        benchmark = load_benchmark("ade20k")
        for name in write_dataset(benchmark, tmp_path):
            mask = tmp_path / fill(benchmark.masks, name)
            mask.rename(mask.with_name("mask_" + mask.name))
        with pytest.raises(DatasetError, match="none of the 4 pictures .* has a partner.*First masks: mask_pic_000"):
            find_samples(benchmark, tmp_path)


def write_grey_png(path, rows, bits):
    """A grey PNG of 1 to 8 bits, which Pillow itself does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = b"".join(
        b"\0" + int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(len(row) * bits // 8, "big")
        for row in rows
    )
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    )


class TestMasks:
    def test_16_bit_masks_hold_more_than_255_classes(self, tmp_path):
        yaml = tmp_path / "many.yaml"
        classes = [f"class {index}" for index in range(459)]
        yaml.write_text(
            f"name: many\nimages: '*.jpg'\nmasks: '*.png'\nclasses: {classes}\n"
            "mask: {ignore_index: 65535, reduce_zero_label: true}\n"
        )
        labels = np.array([[0, 1, 459], [300, 65535, 2]], np.uint16)
        Image.fromarray(labels).save(tmp_path / "a.png")
        mask = read_mask(tmp_path / "a.png", load_benchmark(yaml))
        assert mask.tolist() == [[65535, 0, 458], [299, 65535, 1]]

    def test_one_bit_masks_are_two_classes(self, tmp_path):
        yaml = tmp_path / "two.yaml"
        yaml.write_text("name: two\nimages: '*.jpg'\nmasks: '*.png'\nclasses: [ground, figure]\n")
        Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
        assert read_mask(tmp_path / "a.png", load_benchmark(yaml)).tolist() == [[1, 0]]

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_grey_masks_of_few_bits_keep_their_numbers(self, tmp_path, bits):
        yaml = tmp_path / "two.yaml"
        yaml.write_text("name: two\nimages: '*.jpg'\nmasks: '*.png'\nclasses: [ground, figure]\n")
        write_grey_png(tmp_path / "a.png", [[0, 1, 1, 0, 1, 0, 0, 1]], bits)
        assert read_mask(tmp_path / "a.png", load_benchmark(yaml)).tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]

    def test_jpeg_is_no_mask(self, tmp_path):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", "JPEG")
        with pytest.raises(MaskError, match="is a JPEG"):
            read_mask(tmp_path / "a.png", load_benchmark("voc21"))

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_bomb_is_unreadable(self, tmp_path):
        Image.new("P", (13000, 13000)).save(tmp_path / "a.gif")
        with pytest.raises(MaskError, match="169,000,000 pixels"):
            read_mask(tmp_path / "a.gif", load_benchmark("voc21"))

    def test_an_empty_file_is_unreadable(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(MaskError) as caught:
            read_mask(tmp_path / "a.png", load_benchmark("voc21"))
        assert caught.value.kind == "mask unreadable"


def test_sizes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert picture_size(tmp_path / "turned.jpg") == (10, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_turned_by_exif_are_no_match_for_raw_masks(tmp_path, orientation):
    benchmark = load_benchmark("ade20k")
    (name, *_) = write_dataset(benchmark, tmp_path, 1)
    image, mask = tmp_path / fill(benchmark.images, name), tmp_path / fill(benchmark.masks, name)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(image).save(image, exif=exif)
    report = check_dataset(benchmark, tmp_path)
    expected = {1: {}, **dict.fromkeys((2, 3, 4), {"picture turned by EXIF, mask not": 1})}
    assert report.counts == expected.get(orientation, {"sizes differ": 1})
    labels = np.asarray(Image.open(mask))
    Image.fromarray(labels).save(mask, exif=exif)  # a mask that says so itself is turned with its picture
    assert check_dataset(benchmark, tmp_path).ok


def test_a_split_of_another_system_is_read(tmp_path):
    benchmark = load_benchmark("voc21")
    names = write_dataset(benchmark, tmp_path)
    (tmp_path / benchmark.split).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names).encode())
    assert len(find_samples(benchmark, tmp_path)[0]) == len(names)
    (tmp_path / benchmark.split).write_bytes("\n".join(names).encode("utf-16"))
    assert len(find_samples(benchmark, tmp_path)[0]) == len(names)
    (tmp_path / benchmark.split).write_bytes(b"caf\xe9\n")
    with pytest.raises(DatasetError, match=r"val\.txt is not UTF-8"):
        find_samples(benchmark, tmp_path)


def test_hidden_files_are_no_samples(tmp_path):
    benchmark = load_benchmark("ade20k")
    write_dataset(benchmark, tmp_path)
    (tmp_path / "images/validation/._pic_000.jpg").write_bytes(b"what macOS leaves when it unpacks")
    assert check_dataset(benchmark, tmp_path).ok
