"""What all tests share: one thread (they compare numbers, and machines differ), `golden` by its name, and fixtures."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    from sclip_plugin.methods import METHODS
    from sclip_plugin.steps import STEPS

    for registry in (METHODS, STEPS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


@pytest.fixture(scope="session")
def segmenter():
    """The golden checkpoint in open_clip's layout, one template, no cache. Tests leave it as it is."""
    import golden

    import sclip_plugin as sp

    return sp.Segmenter(golden.model("open_clip"), golden.tokenizer_of("open_clip"), cache_dir=False, templates="plain")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A file of noise, for tests that compare surfaces."""
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path
