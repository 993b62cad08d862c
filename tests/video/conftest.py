import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.video.writing import write_video


@pytest.fixture(scope="session")
def seg():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain")


@pytest.fixture(scope="session")
def scenes():
    return [sp.draw_scene(seed, size=(128, 96)) for seed in range(1_000_000_000, 1_000_000_004)]


@pytest.fixture(scope="session")
def film(tmp_path_factory, scenes):
    """Four scenes of two seconds each, at 5 frames a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with write_video(path, 5) as out:
        for scene in scenes:
            for _ in range(10):
                out.add(scene.picture)
    return path


@pytest.fixture(scope="session")
def corner():
    """A picture that shows how it is turned: red at the upper left, blue at the upper right, else black."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 40:] = (220, 20, 20), (20, 20, 220)
    return Image.fromarray(pixels)
