"""What docs/transformers.md shows works, from top to bottom."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import sclip_plugin

DOCS = Path(__file__).parents[3] / "docs" / "transformers.md"


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": ["photo.jpg", "other.jpg"][index]}


@pytest.fixture
def text():
    return DOCS.read_text(encoding="utf-8")


def test_every_example_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["photo.jpg", "other.jpg"]):
        sclip_plugin.draw_scene(seed=seed).picture.resize((96, 72)).save(name)
    names = {"data_set": Pictures()}
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(examples) > 5
    for example in examples:
        exec(example, names)
    assert names["found"]["label_map"].shape == (72, 96)
    assert names["found"]["labels"] == ["panda", "tree", "house"]
    assert Image.open("overlay.png").size[1] >= 72
    assert (tmp_path / "saved" / "model.safetensors").exists()
    assert any(tmp_path.glob("*.png"))


def test_every_link_leads_somewhere(text):
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
