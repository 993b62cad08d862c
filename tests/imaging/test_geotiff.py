"""GeoTIFFs: what bands mean, which place they have, and a label map that other programs can read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import PictureError
from sclip_plugin.segment.bands import Bands
from sclip_plugin.segment.geotiff import segment_geotiff

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the tests' own files

LABELS = ["cat", "grass & <hay>", "sky\x07"]
RGB = np.asarray(sp.draw_scene(seed=1, size=(48, 40)).picture).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain", window=0)


def write(path, values, place=True, **profile):
    count, height, width = values.shape
    if place:
        profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile}
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype, **profile}
    file = rasterio.open(path, "w", **profile)
    file.write(values)
    return file


def pixels(path, bands=None):
    with rasterio.open(path) as file:
        return Bands.of(file, bands).read(file, (slice(0, file.height), slice(0, file.width)))


def tagged(path, *kinds):
    order = {"red": 0, "green": 1, "blue": 2}
    values = np.stack([RGB[order[kind]] if kind in order else np.full(RGB.shape[1:], 7, np.uint8) for kind in kinds])
    with write(path, values, photometric="minisblack") as file:
        file.colorinterp = [ColorInterp[kind] for kind in kinds]
    return path


@pytest.mark.parametrize(
    "kinds",
    [
        ("red", "green", "blue"),
        ("blue", "green", "red"),
        ("blue", "green", "red", "undefined"),
        ("undefined", "blue", "green", "red", "alpha"),
        ("green", "alpha", "red", "blue"),
    ],
)
def test_bands_that_say_their_colour_are_that_colour(tmp_path, kinds):
    np.testing.assert_array_equal(pixels(tagged(tmp_path / "a.tif", *kinds)), RGB.transpose(1, 2, 0))


def test_alpha_is_no_brightness(tmp_path):
    grey = pixels(tagged(tmp_path / "a.tif", "gray", "alpha"))
    assert (grey == 7).all() and grey.shape == (40, 48, 3)
    assert (pixels(tagged(tmp_path / "a.tif", "alpha", "red")) == RGB[0][..., None]).all()


@pytest.mark.parametrize("kinds", [("cyan", "magenta", "yellow", "black"), ("hue", "saturation", "lightness")])
def test_other_colours_are_refused_unless_bands_are_named(tmp_path, kinds):
    path = tagged(tmp_path / "a.tif", *kinds)
    with pytest.raises(PictureError, match=f"are {', '.join(kinds)}; expected red, green and blue.*--bands"):
        pixels(path)
    assert (pixels(path, [1]) == 7).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_indices_become_the_colours_of_their_table(tmp_path, dtype):
    picture = Image.fromarray(RGB.transpose(1, 2, 0)).quantize(200)
    table = np.array(picture.getpalette()).reshape(-1, 3).tolist()
    with write(tmp_path / "a.tif", np.asarray(picture)[None].astype(dtype)) as file:
        file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(table)})
    right = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), right)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif", [1]), right)


GREY = RGB[:1]


@pytest.mark.parametrize(
    ("values", "profile", "right"),
    [
        (GREY, {"photometric": "MINISWHITE"}, 255 - GREY),
        (GREY >> 4, {"nbits": 4}, (GREY >> 4) * 17),
        (GREY >> 7, {"nbits": 1}, (GREY >> 7) * 255),
        (GREY >> 7, {"nbits": 1, "photometric": "MINISWHITE"}, 255 - (GREY >> 7) * 255),
    ],
    ids=["white is zero", "4 bits", "1 bit", "1 bit, white is zero"],
)
def test_brightness_of_fewer_bits_and_upside_down(tmp_path, values, profile, right):
    write(tmp_path / "a.tif", values, **profile).close()
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], right[0])


def test_sixteen_bits_with_white_as_zero(tmp_path):
    values = GREY.astype(np.uint16) * 200
    for photometric in ("MINISBLACK", "MINISWHITE"):
        write(tmp_path / f"{photometric}.tif", values, photometric=photometric).close()
    np.testing.assert_array_equal(pixels(tmp_path / "MINISWHITE.tif"), 255 - pixels(tmp_path / "MINISBLACK.tif"))


def test_the_darkest_and_the_brightest_fiftieth_are_black_and_white(tmp_path):
    """Of 101 values, 0 to 10000, the 2nd and the 98th per cent are 200 and 9800."""
    write(tmp_path / "a.tif", np.arange(0, 10_001, 100, dtype=np.uint16)[None, None]).close()
    grey = pixels(tmp_path / "a.tif")[0, :, 0]
    assert (grey[:3] == 0).all() and (grey[98:] == 255).all()
    assert [grey[3], grey[50], grey[97]] == [3, 128, 252]


def test_complex_numbers_are_refused(tmp_path):
    write(tmp_path / "a.tif", GREY.astype(np.complex64)).close()
    with pytest.raises(PictureError, match="amplitude"):
        pixels(tmp_path / "a.tif")


def segmented(segmenter, path, labels=LABELS):
    out = path.with_name("out.tif")
    segment_geotiff(segmenter, path, out, labels)
    return out


def test_the_labels_of_swapped_bands_are_those_of_the_picture(segmenter, tmp_path):
    out = segmented(segmenter, tagged(tmp_path / "a.tif", "blue", "green", "red"))
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(1), segmenter(RGB.transpose(1, 2, 0), LABELS).label_map)


def test_ground_control_points_are_kept(segmenter, tmp_path):
    corners = [(0, 0, 10.0, 50.0), (0, 48, 10.1, 50.01), (40, 0, 10.01, 49.9), (40, 48, 10.11, 49.91)]
    with write(tmp_path / "a.tif", RGB, place=False) as file:
        file.gcps = [GroundControlPoint(*corner) for corner in corners], rasterio.crs.CRS.from_epsg(4326)
    with rasterio.open(segmented(segmenter, tmp_path / "a.tif")) as out:
        points, system = out.gcps
    assert [(point.row, point.col, point.x, point.y) for point in points] == corners and system.to_epsg() == 4326


def test_rational_polynomials_are_kept(segmenter, tmp_path):
    numbers = {
        name: [1.0, *[0.0] * 19] for name in ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
    }
    offsets = {
        f"{name}_{kind}": 1.0 + len(name)
        for name in ("height", "lat", "line", "long", "samp")
        for kind in ("off", "scale")
    }
    with write(tmp_path / "a.tif", RGB, place=False) as file:
        file.rpcs = RPC(err_bias=None, err_rand=None, **numbers, **offsets)
    with rasterio.open(segmented(segmenter, tmp_path / "a.tif")) as out:
        assert out.rpcs.to_dict()["line_num_coeff"] == numbers["line_num_coeff"] and out.rpcs.lat_off == 4


def test_a_place_stays(segmenter, tmp_path):
    write(tmp_path / "a.tif", RGB).close()
    with rasterio.open(segmented(segmenter, tmp_path / "a.tif")) as out:
        assert out.crs.to_epsg() == 32633 and out.transform == rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)


def names_in(path):
    """As GDAL reads them, which writes them into a VRT."""
    from xml.etree import ElementTree

    import rasterio.shutil

    rasterio.shutil.copy(path, path.with_suffix(".vrt"), driver="VRT")
    return [name.text for name in ElementTree.parse(path.with_suffix(".vrt")).iterfind(".//CategoryNames/Category")]


@pytest.mark.parametrize("count", [3, 300])
def test_the_label_map_has_colours_and_names(segmenter, tmp_path, count):
    from sclip_plugin.draw.colours import colours_of

    labels = LABELS if count == 3 else [f"thing {index}" for index in range(count)]
    write(tmp_path / "a.tif", RGB).close()
    out = segmented(segmenter, tmp_path / "a.tif", labels)
    assert names_in(out) == [label.replace("\x07", "\N{REPLACEMENT CHARACTER}") for label in labels]
    with rasterio.open(out) as file:
        table, unlabelled = file.colormap(1), int(file.nodata)
        assert [table[index][:3] for index in range(count)] == [tuple(map(int, c)) for c in colours_of(labels)]
        assert table[unlabelled][3] == 0 and file.colorinterp[0] == ColorInterp.palette


def test_names_go_with_the_label_map_that_they_are_of(segmenter, tmp_path, monkeypatch):
    write(tmp_path / "a.tif", RGB).close()
    out = segmented(segmenter, tmp_path / "a.tif", ["cat", "sky"])
    (tmp_path / "b.tif").write_text("no picture")
    with pytest.raises(PictureError):
        segment_geotiff(segmenter, tmp_path / "b.tif", out, LABELS)
    assert names_in(out) == ["cat", "sky"]
    segmented(segmenter, tmp_path / "a.tif", ["tree", "house"])
    assert names_in(out) == ["tree", "house"]


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
def test_what_is_to_be_turned_is_refused(segmenter, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB.transpose(1, 2, 0)).save(tmp_path / f"a.{suffix}", exif=exif)
    with pytest.raises(PictureError, match=r"orientation 6.*sclip segment"):
        segmented(segmenter, tmp_path / f"a.{suffix}")
    assert not (tmp_path / "out.tif").exists()
