"""Brightness of more than 8 bits: what a file says of its values is kept to, and what it can't say is told."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from sclip_plugin.imaging.pictures import read_picture

RAMP = np.linspace(0, 1, 64).reshape(4, 16)


def tiff(values: bytes, bits: int, photometric: int = 1, sample_format: int = 1, order: str = "<") -> io.BytesIO:
    """A TIFF of one strip, 16 pixels wide and 4 high, by the specification's tags alone."""
    short, long = 3, 4
    tags = [
        (256, short, 16), (257, short, 4), (258, short, bits), (259, short, 1), (262, short, photometric),
        (273, long, 8), (277, short, 1), (278, short, 4), (279, long, len(values)), (339, short, sample_format),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(values))
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + ("HH" if kind == short else "I"), *value)
        for tag, kind, value in ((tag, kind, (value, 0) if kind == short else (value,)) for tag, kind, value in tags)
    )
    return io.BytesIO(head + values + struct.pack(order + "H", len(tags)) + entries + bytes(4))


def twelve(values: np.ndarray) -> bytes:
    """Two values of 12 bits in three bytes, the higher bits first."""
    first, second = values.ravel()[::2], values.ravel()[1::2]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


def png(values: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file


def ramp(top: int, dtype: str = "<u2") -> np.ndarray:
    return (RAMP * top).round().astype(dtype)


def brightness(given) -> np.ndarray:
    return np.asarray(read_picture(given)).astype(int)[..., 0]


SAID = {
    "12 bits": (lambda: tiff(twelve(ramp(4095)), 12), False),
    "16 bits": (lambda: tiff(ramp(65535).tobytes(), 16), False),
    "16 bits, big endian": (lambda: tiff(ramp(65535, ">u2").tobytes(), 16, order=">"), False),
    "16 bits, white is zero": (lambda: tiff(ramp(65535).tobytes(), 16, photometric=0), True),
    "8 bits, white is zero": (lambda: tiff(ramp(255, "u1").tobytes(), 8, photometric=0), True),
    "float to 1, white is zero": (lambda: tiff(RAMP.astype("<f4").tobytes(), 32, 0, 3), True),
    "float to 255": (lambda: tiff((255 * RAMP).astype("<f4").tobytes(), 32, 1, 3), False),
    "float to 65535": (lambda: tiff((65535 * RAMP).astype("<f4").tobytes(), 32, 1, 3), False),
    "PNG": (lambda: png(ramp(65535)), False),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_a_file_says_of_its_values(kind):
    make, inverted = SAID[kind]
    right = 255 * (1 - RAMP if inverted else RAMP)
    assert np.abs(brightness(make()) - right).max() <= 1


FEWER = {
    "PNG": png,
    "TIFF": lambda values: tiff(values.tobytes(), 16),
    "array": lambda values: values,
    "tensor": lambda values: torch.from_numpy(values.astype(np.uint16)),
    "colour array": lambda values: np.stack([values] * 3, axis=2),
}


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("form", FEWER)
def test_fewer_bits_in_sixteen_are_seen_and_said(form, bits):
    """DICOM exports, cameras and microscopes; read as 16 bits it would be nearly black."""
    top = 2**bits - 1
    with pytest.warns(UserWarning, match=f"none is above {top:,}: it is read as {bits} bits in 16"):
        got = brightness(FEWER[form](ramp(top)))
    assert np.abs(got - 255 * RAMP).max() <= 1


def test_the_warning_names_the_file_and_a_way_round_it(tmp_path):
    values = ramp(4095)
    Image.fromarray(values).save(tmp_path / "scan.png")
    with pytest.warns(UserWarning, match=r"scan\.png .* values / 65535"):
        read_picture(tmp_path / "scan.png")
    assert brightness(values / 65535).max() == 16  # that dark, and no warning


@pytest.mark.parametrize("top", [0, 4096, 65535])
def test_what_fills_its_bits_or_is_black_is_taken_as_it_is(top):
    assert brightness(png(ramp(top))).max() == top >> 8


def test_colours_of_twelve_bits_in_sixteen_are_said(tmp_path):
    """Pillow gives 8 of the 16 bits of colour files, so all that can be done is to say it."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "scan.png"), np.stack([ramp(4095)] * 3, axis=2))
    with pytest.warns(UserWarning, match=r"scan\.png has 16 bits a channel and is nearly black: .* 15 of 255"):
        read_picture(tmp_path / "scan.png")
    cv2.imwrite(str(tmp_path / "bright.png"), np.stack([ramp(65535)] * 3, axis=2))
    assert np.abs(brightness(tmp_path / "bright.png") - 255 * RAMP).max() <= 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_deep_pictures_are_turned_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(ramp(65535)).save(file, kind, exif=exif)
        right = np.rot90(255 * RAMP, {3: 2, 6: 3}[orientation])
        assert np.abs(brightness(read_picture(file)) - right).max() <= 1


def test_a_tiff_that_pillow_does_not_read_names_what_does(tmp_path):
    from sclip_plugin.errors import PictureError

    (tmp_path / "a.tif").write_bytes(tiff(ramp(65535).tobytes(), 14).getvalue())
    with pytest.raises(PictureError, match=r"a\.tif .* sclip geotiff"):
        read_picture(tmp_path / "a.tif")
