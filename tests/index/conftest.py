import pytest

import sclip_plugin as sp


@pytest.fixture(scope="session")
def seg():
    return sp.Segmenter.from_pretrained("demo", cache_dir=False, templates="plain")


@pytest.fixture(scope="session")
def scenes():
    return [sp.draw_scene(seed, size=(96, 96)) for seed in range(1_000_000_000, 1_000_000_012)]


@pytest.fixture
def photos(tmp_path, scenes):
    """Twelve scenes, every other one in a folder."""
    folder = tmp_path / "photos"
    for i, scene in enumerate(scenes):
        path = folder / ("odd" if i % 2 else "") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(path)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory, scenes, seg):
    """An index of the same, for tests that only read it."""
    folder = tmp_path_factory.mktemp("built")
    for i, scene in enumerate(scenes):
        path = folder / ("odd" if i % 2 else "even") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(path)
    return sp.Index.build(seg, folder, folder / "index", name="demo")
