"""Every example in a docstring and in the README runs, and gives what it says."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import sclip_plugin

README = Path(__file__).parent.parent / "README.md"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sclip_plugin.__path__, "sclip_plugin.")
    if not module.name.endswith("__main__") and ".integrations" not in module.name
)
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("name", ["sclip_plugin", *MODULES])
def test_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[0][:40] for block in BLOCKS])
def test_readme(block):
    if "detectron2" in block and importlib.util.find_spec("detectron2") is None:
        pytest.skip("needs Detectron2; tests/integrations/detectron2 runs the same lines")
    exec(compile(block, str(README), "exec"), {})


def test_the_readme_has_examples():
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("name", ["collections", "encoding", "formats", "models", "video"])
def test_pages(name):
    """Their blocks one after the other, as a reader types them."""
    page = README.parent / "docs" / f"{name}.md"
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
