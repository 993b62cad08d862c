"""How the package is built: no circles, files and functions of a size that one can read."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

from sclip_plugin.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for room in ("sclip_plugin", "integrations") for path in (ROOT / room).rglob("*.py"))
LINES, FUNCTION_LINES = 400, 60


def test_there_are_no_circles_of_modules():
    grimp = pytest.importorskip("grimp", reason="import-linter, which brings grimp, is not installed")
    graph = grimp.build_graph("sclip_plugin", exclude_type_checking_imports=True, cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError and names the circle


def test_a_file_can_be_read_in_one_sitting():
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > LINES}
    assert not long


def test_a_function_fits_a_screen():
    """But for commands, whose options stand one a line."""
    long = {}
    for path in FILES:
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1 - (ast.get_docstring(node, clean=False) or "").count("\n")
                if lines > FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}: {node.name}"] = lines
    assert not long


def test_the_segmenter_is_a_facade():
    assert len((ROOT / "sclip_plugin/segment/segmenter.py").read_text().splitlines()) <= 250


def test_settings_are_few():
    assert len(Settings.__dataclass_fields__) <= 16


def test_no_module_calls_anothers_private_names():
    """Within a room too: what another file uses is public."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("sclip_plugin")):
                names = [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"
                ]
                wrong += [f"{path.relative_to(ROOT)}: {node.module} {name}" for name in names]
    assert not wrong
