"""Every example in a docstring, in the README and in docs/ runs, and gives what it says."""

import doctest
import importlib
import pkgutil

import pages
import pytest

import sclip_plugin

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sclip_plugin.__path__, "sclip_plugin.")
    if not module.name.endswith("__main__") and ".integrations" not in module.name
)
README = [block for block in pages.blocks("README") if "from detectron2" not in block]
# Pages whose blocks, and of README.md those on Detectron2, run in a test beside the integration that they need.
ELSEWHERE = {
    "README": "integrations/detectron2/test_docs.py",
    "detectron2": "integrations/detectron2/test_docs.py",
    "ray": "integrations/ray/test_docs.py",
    "transformers": "integrations/transformers/test_docs.py",
}
# Blocks in other languages than Python and, for tests/test_commands_in_docs.py, bash, and the test that reads them.
OTHER = {("evaluation", "```yaml"): "evaluation/test_docs.py", ("extending", "```toml"): "test_the_entry_point_shown"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("name", ["sclip_plugin", *MODULES])
def test_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.blocks(page) and page not in ELSEWHERE])
def test_pages(page, tmp_path):
    with pages.nothing_stays():
        pages.furnish(tmp_path)
        pages.run_blocks(page)


@pytest.mark.parametrize("block", README, ids=[block.strip().splitlines()[0][:40] for block in README])
def test_readme(block):
    """Each by itself."""
    exec(compile(block, "README.md", "exec"), {})


def test_no_block_is_left_out():
    """README.md's run one by one, pages' in reading order; else in the test that `ELSEWHERE` or `OTHER` names."""
    for page, test in ELSEWHERE.items():
        assert f'"{page}"' in (pages.ROOT / "tests" / test).read_text(encoding="utf-8"), page
    others = {(page, fence) for page in pages.PAGES for fence in pages.fences(page) - {"```python", "```bash"}}
    assert others == set(OTHER)
    assert len(README) >= 3


def test_the_entry_point_shown():
    (block,) = pages.blocks("extending", "toml")
    assert f'entry-points."{sclip_plugin.methods.METHODS.entry_point_group}"' in block
