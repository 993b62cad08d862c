"""Every form a picture comes in, and the protocol's resizing."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sclip_plugin.errors import PictureError
from sclip_plugin.imaging.pictures import read_picture, to_tensor
from sclip_plugin.imaging.resampling import resize, target_size

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        Image.fromarray(RGB),
        RGB,
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1)[None],
        torch.from_numpy(RGB).permute(2, 0, 1) / 255,
        RGB.astype(np.float64) / 255,
        RGB.astype(np.int64),
        RGB.astype(np.uint16) * 257,
        np.dstack([RGB, np.full((20, 30), 255, np.uint8)]),
    ],
    ids=["pil", "uint8", "tensor", "batch of one", "float tensor", "float", "int64", "uint16", "rgba"],
)
def test_forms_of_one_picture(given):
    np.testing.assert_array_equal(np.asarray(read_picture(given)), RGB)


def saved(image: Image.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_any_mode_becomes_rgb(mode):
    colours = Image.fromarray(RGB).resize((5, 4))
    through = {"LA": "RGBA", "PA": "P", "I": "L", "F": "L"}.get(mode)
    if mode in ("I;16", "HSV", "LAB", "CMYK", "YCbCr", "PA"):
        picture = Image.new(mode, (5, 4))
    else:
        picture = (colours.convert(through) if through else colours).convert(mode)
    result = read_picture(picture)
    assert result.mode == "RGB" and result.size == (5, 4)


def test_sixteen_bits_are_scaled_not_cut():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    file = saved(Image.fromarray(values), "PNG")
    assert np.asarray(read_picture(file))[0, :, 0].tolist() == [0, 127, 255]


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png").size == (20, 30)


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert read_picture(clear).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 4, 5, 6)), "(3, 4, 5, 6)"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3)"),
        (np.full((4, 4, 3), 7.5), "7.5"),
        (np.full((4, 4, 3), -3), "-3"),
        (torch.zeros(2, 5, 5), "(2, 5, 5)"),
        (io.BytesIO(b"not a picture"), "cannot be read"),
        (7, "int"),
    ],
)
def test_what_is_no_picture_is_named(given, words):
    with pytest.raises(PictureError) as error:
        read_picture(given)
    assert words in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        read_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(PictureError, match="folder"):
        read_picture(tmp_path)
    whole = saved(Image.fromarray(RGB), "PNG").getvalue()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match="cut.png"):
        read_picture(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("source", "size"),
    [((375, 500), size) for size in [(336, 448), (224, 160), (20, 30), (41, 1), (1, 1), (97, 611)]]
    + [((60, 80), (700, 90)), ((1, 30), (5, 40)), ((30, 1), (50, 4)), ((2, 2), (7, 9)), ((1, 1), (3, 5))],
    ids=str,
)
@pytest.mark.parametrize("channels", ["last", "first"])
def test_resizing_is_opencv_linear(source, size, channels):
    source = np.random.default_rng(1).integers(0, 256, (*source, 3), dtype=np.uint8)
    pixels = to_tensor(Image.fromarray(source))
    ours = resize(pixels if channels == "last" else pixels.contiguous(), size).permute(1, 2, 0).numpy()
    theirs = cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR)
    difference = np.abs(ours.astype(int) - theirs)
    # Equal to the bit with OpenCV's own code; a build that hands the work to a vendor's library may round otherwise.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((375, 500), 336, (336, 448)),
        ((500, 375), 336, (448, 336)),
        ((100, 1000), 336, (205, 2048)),
        ((1, 9000), 336, (1, 2048)),
    ],
)
def test_target_size(size, short, expected):
    assert target_size(*size, short) == expected
