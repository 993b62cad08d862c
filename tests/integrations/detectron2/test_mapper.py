"""Pictures as the loader gives them: those of the segmenter, however their files are turned and stored."""

import numpy as np
import pytest
from detectron2.config import LazyConfig
from imaging import turned
from PIL import Image
from sclip_plugin.integrations.detectron2 import PictureMapper, config_file

from sclip_plugin.errors import PictureError, SettingError


@pytest.fixture
def mapper(make_cfg):
    return PictureMapper(make_cfg("voc21"), is_train=False)


@pytest.mark.parametrize("suffix", turned.OPTIONS)
def test_turned_pictures_come_upright_once(mapper, tmp_path, suffix):
    if not turned.writable(suffix):
        pytest.skip(f"{suffix.upper()}: pillow-heif is not installed")
    for orientation in turned.STORED:
        path, pixels = turned.write(tmp_path, suffix, orientation, turned.scene())
        record = mapper({"file_name": str(path), "image_id": "a", "sem_seg_file_name": "b"})
        np.testing.assert_array_equal(record["image"].permute(1, 2, 0).numpy(), pixels)
        assert (record["height"], record["width"], set(record)) == (64, 48, {"file_name", "image_id"} | TOLD)


TOLD = {"height", "width", "image"}


def test_sixteen_bits_and_transparency(mapper, tmp_path):
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "a.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "b.png")
    assert mapper({"file_name": str(tmp_path / "a.png")})["image"].unique().tolist() == [128]
    assert mapper({"file_name": str(tmp_path / "b.png")})["image"].unique().tolist() == [255]


@pytest.mark.parametrize(("order", "expected"), [("RGB", [10, 20, 30]), ("BGR", [30, 20, 10]), ("L", [18])])
def test_channels_are_in_the_models_order_and_sizes_the_configs(make_cfg, tmp_path, order, expected):
    Image.new("RGB", (20, 10), (10, 20, 30)).save(tmp_path / "a.png")
    mapper = PictureMapper(make_cfg("sclip", "INPUT.FORMAT", order, "INPUT.MIN_SIZE_TEST", 5), is_train=False)
    image = mapper({"file_name": str(tmp_path / "a.png")})["image"]
    assert image.shape == (len(expected), 5, 10) and image[:, 0, 0].tolist() == expected


def test_configs_that_ship_use_it():
    assert LazyConfig.load(config_file("lazy/voc21")).dataloader.test.mapper._target_ is PictureMapper


def test_what_it_is_not_for(make_cfg, mapper, tmp_path):
    with pytest.raises(SettingError, match="is_train=False"):
        PictureMapper(make_cfg("voc21"), is_train=True)({"file_name": "a.png"})
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(PictureError, match="a.png"):
        mapper({"file_name": str(tmp_path / "a.png")})
