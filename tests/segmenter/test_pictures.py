"""Every form a picture comes in, and the protocol's resizing."""

import io
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

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
    assert np.asarray(read_picture(file))[0, :, 0].tolist() == [0, 128, 255]


def test_shares_become_the_nearest_of_256_levels():
    grey = read_picture(np.array([[0, 0.25, 0.5, 0.999, 1]], np.float32))
    assert np.asarray(grey)[0, :, 0].tolist() == [0, 64, 128, 255, 255]


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


class TestHostileFiles:
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # of the test's own Image.open
    def test_a_small_file_that_declares_many_pixels_is_refused(self, tmp_path, monkeypatch):
        image = Image.new("P", (13000, 13000))
        image.save(tmp_path / "bomb.gif")
        with pytest.raises(PictureError, match=r"bomb.gif is 13000 x 13000, 169,000,000 pixels.*--max-pixels"):
            read_picture(tmp_path / "bomb.gif")
        with Image.open(tmp_path / "bomb.gif") as lazy, pytest.raises(PictureError, match="--max-pixels"):
            read_picture(lazy)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
        with pytest.raises(PictureError, match="more than 60 pixels"):
            read_picture(saved(Image.fromarray(RGB), "PNG"))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
        assert read_picture(saved(Image.fromarray(RGB), "PNG")).size == (30, 20)

    def test_lazy_pictures_break_in_the_same_way(self):
        whole = saved(Image.fromarray(RGB), "PNG").getvalue()
        with pytest.raises(PictureError, match="cannot be read"):
            read_picture(Image.open(io.BytesIO(whole[:-40])))

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "TGA", "ICO", "JPEG"])
    def test_any_byte_may_be_wrong(self, kind):
        if kind not in Image.SAVE:
            pytest.skip(f"this Pillow writes no {kind}")
        whole = saved(Image.fromarray(RGB), kind).getvalue()
        rng = np.random.default_rng(0)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                data[place] = rng.integers(0, 256)
            try:
                assert read_picture(io.BytesIO(bytes(data))).mode == "RGB"
            except PictureError:
                pass

    @pytest.mark.parametrize(
        "given",
        [
            np.array([[None, 1]], dtype=object),
            np.zeros((2, 2), complex),
            np.zeros((2, 2), "datetime64[s]"),
            np.zeros((0, 0, 3)),
            np.full((2, 2), np.nan),
            torch.zeros(2, 2, 3).to_sparse(),
            torch.zeros(3, 2, 2, device="meta"),
            torch.zeros(3, 2, 2, dtype=torch.complex64),
            "",
            "a\0b.png",
            "x" * 5000,
        ],
    )
    def test_what_is_none_is_a_picture_error(self, given):
        with pytest.raises(PictureError):
            read_picture(given)

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        for path in (tmp_path / "pipe.png", "/dev/zero"):
            with pytest.raises(PictureError, match="a pipe or a device"):
                read_picture(path)

    def test_paths_can_be_refused(self, tmp_path):
        Image.fromarray(RGB).save(tmp_path / "secret.png")
        for path in (tmp_path / "secret.png", str(tmp_path / "secret.png")):
            with pytest.raises(PictureError, match="not to be read here"):
                read_picture(path, paths=False)
        assert read_picture((tmp_path / "secret.png").open("rb"), paths=False).size == (30, 20)

    def test_heic_without_its_plugin_says_what_is_missing(self, tmp_path):
        if ".heic" in Image.registered_extensions():
            pytest.skip("pillow-heif is installed")
        (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
        with pytest.raises(PictureError, match="pip install pillow-heif"):
            read_picture(tmp_path / "photo.heic")


class TestValues:
    @pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
    def test_floating_point_files_are_as_bright_as_arrays(self, top):
        values = np.array([[0, 0.5, 1]], dtype=np.float32)
        file = saved(Image.fromarray(values * np.float32(top)), "TIFF")
        expected = np.asarray(read_picture(values)).astype(int)
        assert np.abs(np.asarray(read_picture(file)).astype(int) - expected).max() <= 1

    @pytest.mark.parametrize(
        "values",
        [np.array([[-5, 300]], np.int32), np.array([[0, 70000]], np.int32), np.array([[0, np.nan]], np.float32)],
    )
    def test_what_is_no_brightness_is_refused(self, values):
        with pytest.raises(PictureError, match="holds values from"):
            read_picture(saved(Image.fromarray(values), "TIFF"))

    def test_big_endian_arrays_are_the_same_picture(self):
        values = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
        np.testing.assert_array_equal(np.asarray(read_picture(values)), np.asarray(read_picture(values.astype(">u2"))))

    def test_transparency_row_by_row_is_transparency_at_once(self):
        values = np.random.default_rng(3).integers(0, 256, (700, 3, 4), dtype=np.uint8)
        picture = Image.fromarray(values)
        once = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        assert read_picture(picture).tobytes() == once.tobytes()
        with_key = picture.convert("RGB")
        with_key.info["transparency"] = with_key.getpixel((0, 0))
        assert read_picture(with_key).getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("orientation", range(1, 10))
    def test_every_orientation_is_turned_as_pillow_does(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = saved(Image.fromarray(RGB), "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        assert read_picture(file).tobytes() == expected.tobytes()

    @pytest.mark.filterwarnings("ignore:.*the first is taken")
    def test_the_first_frame_is_taken_and_said(self, tmp_path):
        first = Image.fromarray(RGB)
        first.save(tmp_path / "moving.gif", save_all=True, append_images=[first.rotate(90), first.rotate(180)])
        with pytest.warns(UserWarning, match="moving.gif has 3 frames; the first is taken"):
            picture = read_picture(tmp_path / "moving.gif")
        with Image.open(tmp_path / "moving.gif") as file:
            assert picture.tobytes() == file.convert("RGB").tobytes()
        whole = (tmp_path / "moving.gif").read_bytes()
        for cut in range(1, len(whole) // 2, 7):  # what is wrong with a later frame does not matter
            assert read_picture(io.BytesIO(whole[:-cut])).tobytes() == picture.tobytes()
