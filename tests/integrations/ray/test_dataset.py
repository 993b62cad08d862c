"""`segment_dataset`: a step of a Ray Data pipeline."""

import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError

data = pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'sclip_plugin[ray]'")
from pycocotools import mask as coco  # noqa: E402
from sclip_plugin.integrations.ray import segment_dataset  # noqa: E402

pytestmark = pytest.mark.usefixtures("local_ray")

LABELS = ["cat", "grass", "sky"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed, size in enumerate([(96, 72), (72, 96), (96, 72)]):
        sp.draw_scene(seed=seed, size=size).picture.save(folder / f"{seed}.png")
    return folder


def segmented(ds, **options):
    return segment_dataset(ds, LABELS, model="demo", workers=1, templates="plain", **options).take_all()


def test_pixels_and_files_are_those_of_a_segmenter(folder):
    """Pixels of several sizes, and files of which one is broken; other columns stay."""
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", templates="plain")
    rows = segmented(data.read_images(str(folder), include_paths=True))
    assert [set(row) for row in rows] == [{"path", "width", "height", "segments", "error"}] * 3
    for row in rows:
        with Image.open(row["path"]) as file:
            expected = segmenter(file, LABELS).label_map
        label_map = np.full(expected.shape, -1)
        for segment in row["segments"]:
            mask = coco.decode({"size": expected.shape, "counts": segment["counts"]}).astype(bool)
            label_map[mask] = segment["index"]
        assert (row["height"], row["width"]) == expected.shape and (label_map != expected).mean() < 1e-3
    (folder / "broken.png").write_bytes(b"-")
    by_path = {row["path"][-10:]: row for row in segmented(data.read_binary_files(str(folder), include_paths=True))}
    assert len(by_path) == 4 and "cannot be read as a picture" in by_path["broken.png"]["error"]
    assert {row["path"]: row["segments"] for row in rows}.items() <= {
        row["path"]: row["segments"] for row in by_path.values()
    }.items()


def test_a_dataset_without_one_column_of_pictures(folder):
    with pytest.raises(FileFormatError, match=r"0 columns of pictures \(none\) among item, for 'jpg'"):
        segmented(data.from_items([{"item": 1}]), column="jpg")
    two = data.from_items([{"a": b"-", "b": b"-"}])
    with pytest.raises(FileFormatError, match=r"2 columns of pictures \(a, b\)"):
        segmented(two)
    (row,) = segmented(two, column="b")
    assert "cannot be read" in row["error"] and row["a"] == b"-"
