"""Large GeoTIFFs: by tiles, in place, in bounded memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.draw.colours import colours_of
from sclip_plugin.errors import PictureError, SettingError
from sclip_plugin.segment.geotiff import _tiles, segment_geotiff

LABELS = ["cat", ["sofa", "couch"], "grass"]
PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)


def write(path, values, **profile):
    """(bands, H, W) as a GeoTIFF in UTM zone 33 N."""
    count, height, width = values.shape
    profile = {"crs": "EPSG:32633", "transform": PLACE, "photometric": "minisblack", **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
    ) as out:
        out.write(values)
    return path


def noise(bands=3, height=150, width=200, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, (bands, height, width)).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (100, 250), (1024, 1500), (2049, 1280)])
@pytest.mark.parametrize(("tile", "margin"), [(1024, 128), (100, 0), (37, 50)])
def test_tiles_cover_every_pixel_once_and_are_read_at_one_size(size, tile, margin):
    covered = np.zeros(size, int)
    shapes = set()
    for (read_rows, read_columns), (rows, columns) in _tiles(size, tile, margin):
        covered[rows, columns] += 1
        assert 0 <= read_rows.start <= rows.start < rows.stop <= read_rows.stop <= size[0]
        assert 0 <= read_columns.start <= columns.start < columns.stop <= read_columns.stop <= size[1]
        shapes.add((read_rows.stop - read_rows.start, read_columns.stop - read_columns.start))
    assert (covered == 1).all() and len(shapes) == 1


def test_presence_of_a_tile_is_off_unless_asked_for(tmp_path):
    demo, source = sp.Segmenter.from_pretrained("demo"), write(tmp_path / "a.tif", noise(high=40))
    assert sum(segment_geotiff(demo, source, tmp_path / "out.tif", ["cat", "zebra"]).values()) == pytest.approx(1)
    assert sum(segment_geotiff(demo, source, tmp_path / "out.tif", ["cat", "zebra"], present=0.9).values()) == 0


def test_a_small_one_is_segmented_as_a_picture(segmenter, tmp_path):
    values = noise()
    shares = segment_geotiff(segmenter, write(tmp_path / "a.tif", values), tmp_path / "out.tif", LABELS)
    expected = segmenter(values.transpose(1, 2, 0), LABELS)
    with rasterio.open(tmp_path / "out.tif") as out:
        np.testing.assert_array_equal(out.read(1), expected.label_map)
        assert (out.crs, out.transform, out.nodata, out.dtypes) == ("EPSG:32633", PLACE, 255, ("uint8",))
        assert json.loads(out.tags()["labels"]) == ["cat", "sofa", "grass"]
        assert out.colormap(1)[0][:3] == tuple(colours_of(["cat"])[0])
    assert shares == pytest.approx(expected.areas())


def test_tiles_are_the_middles_of_pictures(segmenter, tmp_path):
    values = noise(height=120, width=180)
    segment_geotiff(segmenter, write(tmp_path / "a.tif", values), tmp_path / "out.tif", LABELS, tile=60, margin=20)
    with rasterio.open(tmp_path / "out.tif") as out:
        got = out.read(1)
    read = values[:, 20:120, 40:140].transpose(1, 2, 0)  # the tile at (60, 60), moved up to end with the file
    np.testing.assert_array_equal(got[60:120, 60:120], segmenter(read, LABELS).label_map[40:100, 20:80])


def test_nodata_is_left_unlabelled(segmenter, tmp_path):
    values = noise(high=255) + 1
    values[:, :40, :50] = 0
    shares = segment_geotiff(
        segmenter, write(tmp_path / "a.tif", values, nodata=0), tmp_path / "out.tif", LABELS, threshold=0.0
    )
    with rasterio.open(tmp_path / "out.tif") as out:
        np.testing.assert_array_equal(out.read(1) == 255, (values == 0).all(axis=0))
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "high"), [(np.uint16, 4000), (np.float32, 1)])
def test_values_of_other_kinds_are_stretched_over_the_whole_file(segmenter, tmp_path, dtype, high):
    eight = noise(height=100, width=100)
    values = (eight / 255 * high).astype(dtype)
    segment_geotiff(segmenter, write(tmp_path / "a.tif", values), tmp_path / "out.tif", LABELS)
    low, top = np.percentile(eight, (2, 98), axis=(1, 2))[..., None, None]
    stretched = (255 * ((eight - low) / (top - low)).clip(0, 1) + 0.5).astype(np.uint8)
    expected = segmenter(stretched.transpose(1, 2, 0), LABELS).label_map
    with rasterio.open(tmp_path / "out.tif") as out:
        assert (out.read(1) == expected).mean() > 0.98  # rounding


@pytest.mark.parametrize(("count", "bands", "taken"), [(4, None, [1, 2, 3]), (4, [4, 3, 2], [4, 3, 2]), (1, None, [1])])
def test_which_bands_are_looked_at(segmenter, tmp_path, count, bands, taken):
    values = noise(bands=count)
    segment_geotiff(segmenter, write(tmp_path / "a.tif", values), tmp_path / "out.tif", LABELS, bands=bands)
    picture = np.broadcast_to(values[[band - 1 for band in taken]], (3, 150, 200)).transpose(1, 2, 0)
    with rasterio.open(tmp_path / "out.tif") as out:
        np.testing.assert_array_equal(out.read(1), segmenter(np.ascontiguousarray(picture), LABELS).label_map)


def test_a_picture_without_a_place_has_none_afterwards(segmenter, tmp_path):
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / "a.png")
    segment_geotiff(segmenter, tmp_path / "a.png", tmp_path / "out.tif", LABELS)
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.crs is None


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (PictureError, "of a file of 3", {"bands": [4]}),
        (PictureError, "one for grey, or three", {"bands": [1, 2]}),
        (SettingError, "tile=0", {"tile": 0}),
        (SettingError, "margin=-1", {"margin": -1}),
    ],
)
def test_what_cannot_be_is_said(segmenter, tmp_path, error, words, options):
    path = write(tmp_path / "a.tif", noise())
    with pytest.raises(error, match=words):
        segment_geotiff(segmenter, path, tmp_path / "out.tif", LABELS, **options)
    assert not (tmp_path / "out.tif").exists()


def test_what_is_no_geotiff_is_said(segmenter, tmp_path):
    (tmp_path / "a.tif").write_text("no picture")
    with pytest.raises(PictureError, match="a.tif"):
        segment_geotiff(segmenter, tmp_path / "a.tif", tmp_path / "out.tif", LABELS)


MEMORY = """
import resource, sys
import numpy as np, rasterio
import sclip_plugin as sp
from sclip_plugin.segment.geotiff import segment_geotiff

segmenter = sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain", window=0)
most = []
for side in (1280, 5120):
    profile = dict(driver="GTiff", count=3, height=side, width=side, dtype="uint8", tiled=True, compress="deflate")
    with rasterio.open(sys.argv[1], "w", **profile) as out:
        row = np.random.default_rng(0).integers(0, 256, (3, 256, side), dtype=np.uint8)
        for top in range(0, side, 256):
            out.write(row, window=rasterio.windows.Window(0, top, side, 256))
    segment_geotiff(segmenter, sys.argv[1], sys.argv[1] + ".out", ["cat", "grass"], tile=1024)
    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(most[1] - most[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_memory_does_not_grow_with_the_picture(tmp_path):
    """Of 79 MB of pixels in place of 5; what grows is what the first run left unused."""
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60, done.stdout


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    from sclip_plugin.cli import program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "a.tif", noise(bands=4))
    fixed = ["sclip", "geotiff", "a.tif", "-l", "cat, grass", "-m", "demo", "--set", "templates=plain"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--tile", "100", "--margin", "10", "--bands", "4,3,2", "--json"])
    try:
        program.run()
    except SystemExit as end:
        assert not end.code
    said = json.loads(capsys.readouterr().out)
    assert set(said["labels"]) == {"cat", "grass"} and (tmp_path / said["file"]).is_file()
    monkeypatch.setattr(sys, "argv", [*fixed, "--bands", "red"])
    with pytest.raises(SystemExit) as end:
        program.run()
    assert end.value.code == 2 and "4,3,2" in capsys.readouterr().err
