"""What the pages promise: the commands of CI, every public name, lines that fit, mutations of today's source."""

import re
from pathlib import Path

import pytest
from mutations import MUTATIONS

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
