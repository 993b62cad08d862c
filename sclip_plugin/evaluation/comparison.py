"""Several runs in one table, beside published figures: Markdown, CSV, and LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .report import how_many, relevant_figures, show
from .runner import EvaluationResult

GIGABYTE = 1e9
COLUMNS = (
    *("benchmark", "method", "model", "miou", "published", "published_as", "aacc", "pictures", "expected", "problems"),
    *("seconds_per_picture", "peak_memory_bytes", "preset"),
)
ESCAPED = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}


@dataclass(frozen=True)
class Comparison:
    """Runs beside one another.

    Args:
        results: the runs.
        missing: benchmarks that were not run, each with the reason.
    """

    results: Sequence[EvaluationResult]
    missing: Sequence[tuple[str, str]] = ()

    def markdown(self) -> str:
        """A line a run, the published figure of its method beside it; time is the median of its pictures."""
        head = "| benchmark | method | mIoU | published | aAcc | pictures | s a picture | peak memory |"
        lines = [head, "|---" * head.count(" | ") + "|---|"]
        for result in self.results:
            figures = relevant_figures(result)
            published = "; ".join(f"{figure.miou} ({figure.method})" for figure in figures) or "-"
            left_out = f", {len(result.problems)} problems" if result.problems else ""
            lines.append(
                f"| {result.benchmark} | {_method(result)} | {show(result.miou)} | {published} | "
                f"{show(result.totals.aacc)} | {how_many(result)}{left_out} | {_seconds(result.seconds_a_picture)} | "
                f"{_memory(result.peak_memory)} |"
            )
        lines += [f"| {name} | - | - | - | - | {reason} | - | - |" for name, reason in self.missing]
        if len(self.results) > 1 and len({result.settings.get("method") for result in self.results}) == 1:
            mean = float(np.mean([result.miou for result in self.results]))
            lines.append(f"| average of {len(self.results)} | | {show(mean)} | | | | | |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """A line a run, figures in full precision and per cent; empty where something is unknown."""
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(COLUMNS)
        for result in self.results:
            figures, seconds = relevant_figures(result), result.seconds_a_picture
            rows.writerow(
                [
                    *(result.benchmark, _method(result), result.settings.get("model", ""), 100 * result.miou),
                    *("; ".join(str(f.miou) for f in figures), "; ".join(f.method for f in figures)),
                    *(100 * result.totals.aacc, len(result.records), result.expected, len(result.problems)),
                    *("" if math.isnan(seconds) else seconds, result.peak_memory or "", result.settings.get("preset")),
                ]
            )
        return text.getvalue()

    def latex(self) -> str:
        """A line a method and a column a benchmark, for booktabs: mIoU, the best in bold, the published in brackets.

        With several benchmarks their mean; at the end the time a picture and the peak memory, the largest of the
        benchmarks'.
        """
        methods = list(dict.fromkeys(map(_method, self.results)))
        sets = list(dict.fromkeys(result.benchmark for result in self.results))
        found = {(_method(result), result.benchmark): result for result in self.results}
        means = {
            method: float(np.mean([found[method, name].miou for name in sets]))
            for method in methods
            if len(sets) > 1 and all((method, name) in found for name in sets)
        }
        best = {name: _largest(r.miou for r in self.results if r.benchmark == name) for name in sets}
        best_mean = _largest(means.values())
        columns = [*map(_tex, sets), *(["mean"] if means else []), "s / picture", "GB"]
        lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", _line(["method", *columns]), r"\midrule"]
        for method in methods:
            cells = [_tex(method)]
            for name in sets:
                result = found.get((method, name))
                cells.append("--" if result is None else _cell(result, best[name]))
            if means:
                cells.append(_bold(means[method], best_mean) if method in means else "--")
            runs = [result for result in self.results if _method(result) == method]
            cells.append(_seconds(_largest(result.seconds_a_picture for result in runs)).replace("-", "--"))
            peak = max(result.peak_memory for result in runs)
            lines.append(_line([*cells, f"{peak / GIGABYTE:.2f}" if peak else "--"]))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write ``table.md``, ``table.csv``, ``table.tex`` and ``table.json``; returns their paths."""
        from ..storage.files import save_json, write_atomically
        from .report import to_dict

        texts = {"table.md": self.markdown(), "table.csv": self.csv(), "table.tex": self.latex()}
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
        runs = [{k: v for k, v in to_dict(r).items() if k not in ("per_picture", "classes")} for r in self.results]
        save_json({"runs": runs, "missing": dict(self.missing)}, folder / "table.json")
        return [folder / name for name in (*texts, "table.json")]


def _method(result: EvaluationResult) -> str:
    return str(result.settings.get("method", "-"))


def _cell(result: EvaluationResult, best: float) -> str:
    published = [f"{figure.miou:g}" for figure in relevant_figures(result)[:1]]
    return _bold(result.miou, best) + "".join(f" ({figure})" for figure in published)


def _bold(share: float, best: float) -> str:
    """Shares that are printed alike are best together."""
    text = show(share).replace("-", "--")
    return rf"\textbf{{{text}}}" if text == show(best) else text


def _largest(values: Iterable[float]) -> float:
    """Of the values that are numbers."""
    return max((value for value in values if not math.isnan(value)), default=float("nan"))


def _seconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds:.3f}"


def _memory(size: int) -> str:
    return f"{size / GIGABYTE:.2f} GB" if size else "-"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(ESCAPED.get(character, character) for character in text)
