"""What docs/evaluation.md shows works."""

from pathlib import Path

import pytest

from sclip_plugin.protocols import benchmark_preset, list_benchmarks, load_benchmark

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def text():
    return DOCS.read_text(encoding="utf-8")


def test_the_yaml_file_shown_is_read(text, tmp_path):
    shown = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "pets.yaml").write_text(shown)
    benchmark = load_benchmark(tmp_path / "pets.yaml")
    assert benchmark.class_names == ("background", "cat", "dog")
    assert benchmark.split == "lists/val.txt" and benchmark.published[0].miou == 61.2
    assert benchmark_preset(benchmark, "sclip").settings.steps == ("benchmark(prob=0.1)",)


def test_the_yaml_file_shown_needs_only_its_first_keys(text, tmp_path):
    shown = text.split("```yaml\n")[1].split("\ntitle:")[0]
    (tmp_path / "pets.yaml").write_text(shown)
    assert load_benchmark(tmp_path / "pets.yaml").num_classes == 3


@pytest.mark.parametrize("name", list_benchmarks())
def test_the_table_of_layouts_is_that_of_the_files(text, name):
    benchmark = load_benchmark(name)
    (row,) = [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    cells = [cell.strip().strip("`") for cell in row.split("|")[2:-1]]
    assert cells[:3] == [benchmark.images, benchmark.masks, benchmark.split or ""]
    assert benchmark.made_by.removesuffix(" DATA") == cells[3]
