"""What docs/transformers.md shows works, from top to bottom."""

import re

import pages
from PIL import Image

import sclip_plugin


def test_every_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["photo.jpg", "other.jpg"]):
        sclip_plugin.draw_scene(seed=seed).picture.resize((96, 72)).save(name)
    assert len(pages.blocks("transformers")) > 5
    names = pages.run_blocks("transformers")
    assert names["found"]["label_map"].shape == (72, 96)
    assert names["found"]["labels"] == ["panda", "tree", "house"]
    assert Image.open("overlay.png").size[1] >= 72
    assert (tmp_path / "saved" / "model.safetensors").exists()
    assert any(tmp_path.glob("*.png"))


def test_every_link_leads_somewhere():
    text = pages.PAGES["transformers"].read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
