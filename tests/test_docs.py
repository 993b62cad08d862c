"""What the pages promise: the commands of CI, every public name, lines that fit, mutations of today's source."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from mutation_list import MUTATIONS

import sclip_plugin

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests").rglob("*.md")])


def test_ci_runs_what_the_readme_says():
    """`python -m pip install -e ".[test]" && python -m pytest`, in these words."""
    (command,) = re.findall(r"^    (python -m pip install -e .*pytest)$", (ROOT / "README.md").read_text(), re.M)
    install, _, test = command.partition(" && ")
    ci = (ROOT / ".ci/run").read_text()
    assert re.search(rf"^  {re.escape(install)}( |$)", ci, re.M) and re.search(rf"^  {re.escape(test)}( |$)", ci, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_fit_into_120_columns(page):
    """But for rows of tables and for links, which cannot be broken."""
    long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert [line for line in long if not line.startswith("|") and "](" not in line and "://" not in line] == []


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: sclip_plugin\.[\w.]+\.(\w+)$", (ROOT / "docs/reference.md").read_text(), re.M)
    assert sorted(shown) == sorted(set(sclip_plugin.__all__) - {"__version__"})


def test_every_page_is_on_the_site():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in nav, f"docs/{page.name} is in no menu of mkdocs.yml"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_every_mutation_changes_one_place_of_the_source():
    """Else tests/mutations.py, which takes too long for every run, would stop at it or change more than it says."""
    for path, before, after in MUTATIONS:
        assert (ROOT / path).read_text(encoding="utf-8").count(before) == 1 and after != before, (path, before)


def test_every_room_is_installed():
    """setup.cfg's packages are the folders that hold Python, and its data every other file in them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {
        path.parent.relative_to(ROOT)
        for top in ("sclip_plugin", "integrations")
        for path in (ROOT / top).rglob("__init__.py")
        if not path.is_relative_to(ROOT / "sclip_plugin" / "integrations")
    }
    packages = {".".join(folder.parts).replace("integrations", "sclip_plugin.integrations", 1) for folder in folders}
    assert set(config["options"]["packages"].split()) == packages
    patterns = {
        (ROOT / package.replace("sclip_plugin.integrations", "integrations").replace(".", "/"), pattern.strip())
        for package, value in config["options.package_data"].items()
        for pattern in value.split(",")
    }
    installed = {path for folder, pattern in patterns for path in folder.glob(pattern)}
    tracked = subprocess.run(
        ["git", "ls-files", "sclip_plugin", "integrations"], cwd=ROOT, capture_output=True, text=True
    )
    data = {ROOT / name for name in tracked.stdout.split() if not name.endswith(".py")}
    assert data <= installed, sorted(str(path) for path in data - installed)
