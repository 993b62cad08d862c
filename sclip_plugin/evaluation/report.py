"""A run's figures as text, JSON and Markdown, next to what was published; and a sheet of the worst pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..protocols.benchmarks import PublishedFigure
from .calibration import Calibration
from .runner import EvaluationResult, Predict
from .sets import EvaluationSet
from .wording import unique_names

KINDS = {"presence": "presence of words", "pixels": "scores of pixels"}


def to_dict(result: EvaluationResult) -> dict[str, Any]:
    """All of a run as plain values, for JSON: figures in per cent, exact counts, pictures, problems, settings.

    Calibration is in shares from 0 to 1, as scores are.
    """
    totals = result.totals
    names = unique_names(result.class_names)
    return {
        "benchmark": result.benchmark,
        "title": result.title,
        "miou": percent(totals.miou),
        "aacc": percent(totals.aacc),
        "macc": percent(totals.macc),
        "pictures": len(result.records),
        "expected": result.expected,
        "left_out": len(result.problems),
        "problems": [{"kind": p.kind, "name": p.name, "detail": p.detail} for p in result.problems],
        "classes": [
            {
                "name": name,
                "iou": percent(totals.iou[index]),
                "accuracy": percent(totals.accuracy[index]),
                "intersection": int(totals.intersection[index]),
                "union": int(totals.union[index]),
                "labelled": int(totals.counts[2][index]),
            }
            for index, name in enumerate(names)
        ],
        "published": [
            {"method": figure.method, "miou": figure.miou, "source": figure.source} for figure in result.published
        ],
        "calibration": {kind: seen.to_dict() for kind, seen in result.calibration.items()},
        "settings": result.settings,
        "seconds": round(result.seconds, 3),
        "computed": result.computed,
        "seconds_a_picture": None if math.isnan(result.seconds_a_picture) else result.seconds_a_picture,
        "peak_memory": result.peak_memory or None,
        "per_picture": [
            {"name": record.name, "miou": percent(record.miou), "accuracy": percent(record.accuracy)}
            for record in result.records
        ],
    }


def to_markdown(result: EvaluationResult) -> str:
    """A run as a page: the figure beside the published ones, every class, what was left out."""
    totals = result.totals
    published = relevant_figures(result)
    lines = [
        f"# {result.title}",
        "",
        f"**mIoU {show(totals.miou)}**, aAcc {show(totals.aacc)}, mAcc {show(totals.macc)} over "
        f"{how_many(result)} pictures; {describe(result.settings)}.",
        "",
    ]
    if result.settings.get("differs"):
        lines += [f"Not the authors' own settings: {result.settings['differs']}.", ""]
    if published and len(result.records) < result.expected:
        lines += ["Published figures are over the whole set; this one is not, and does not compare with them.", ""]
    if published:
        lines += ["| published | mIoU | source |", "|---|---|---|"]
        lines += [f"| {figure.method} | {figure.miou} | {figure.source} |" for figure in published]
        lines.append("")
    lines += ["| class | IoU | accuracy | pixels |", "|---|---|---|---|"]
    for index, name in enumerate(unique_names(result.class_names)):
        iou, accuracy = show(totals.iou[index]), show(totals.accuracy[index])
        lines.append(f"| {name} | {iou} | {accuracy} | {int(totals.counts[2][index])} |")
    if result.calibration:
        lines += ["", *_calibration_lines(result.calibration)]
    if result.problems:
        lines += ["", f"## {len(result.problems)} problems", ""]
        lines += [f"- {problem}" for problem in result.problems]
    return "\n".join(lines) + "\n"


def calibration_line(kind: str, seen: Calibration) -> str:
    """A calibration in a line; precision and recall of presence alone, at 0.5."""
    found = f"precision {seen.precision:.3f}, recall {seen.recall:.3f}, " if kind == "presence" else ""
    return f"{found}Brier {seen.brier:.4f}, gap {seen.gap:.4f}"


def _calibration_lines(calibration: dict[str, Calibration]) -> list[str]:
    lines = ["## What scores mean", "", "![reliability](reliability.png)", ""]
    for kind, seen in calibration.items():
        lines += [f"**{KINDS[kind].capitalize()}**: {calibration_line(kind, seen)}, {seen.count:,} scores.", ""]
        lines += ["| scores from | number | mean score | right |", "|---|---|---|---|"]
        for part in seen.to_dict()["bins"]:
            if part["count"]:
                lines.append(f"| {part['from']:.1f} | {part['count']} | {part['score']:.3f} | {part['right']:.3f} |")
        lines.append("")
    return lines[:-1]


def how_many(result: EvaluationResult) -> str:
    """How many pictures a figure is over: "1,449", or "6 of 1,449" where that is not the whole set."""
    whole = f" of {result.expected:,}" if len(result.records) < result.expected else ""
    return f"{len(result.records):,}{whole}"


def relevant_figures(result: EvaluationResult) -> list[PublishedFigure]:
    """Published figures of the method that was run; all of them where it has none."""
    own = result.settings.get("published_as") or ""
    return [figure for figure in result.published if figure.method == own] if own else []


def describe(settings: dict[str, Any]) -> str:
    """The settings that matter most, in a line."""
    parts = [str(settings.get("model", "?")), f"method {settings.get('method', '?')}"]
    if settings.get("steps"):
        parts.append(f"steps {', '.join(map(str, settings['steps']))}")
    if settings.get("preset"):
        parts.append(f"preset {settings['preset']}")
    return ", ".join(parts)


def worst_sheet(result: EvaluationResult, data: EvaluationSet, predict: Predict, count: int) -> Image.Image | None:
    """The pictures with the lowest IoU of their own: each beside its ground truth and its label map.

    Args:
        result, data: of the run.
        predict: as for `evaluate`; only the pictures shown are computed again.
        count: how many pictures.

    Returns: one picture, three panels to a row; None if there is no picture to show.
    """
    from ..draw.overlay import legend_of, overlay, side_by_side

    panels: list[tuple[str, Image.Image]] = []
    maps: list[np.ndarray] = []
    names = unique_names(result.class_names)
    for record in result.worst(count):
        picture, target = data.load(record.name)
        truth = np.where(target == data.benchmark.ignore_index, -1, target.astype(np.int64))
        (label_map,) = predict([picture])
        panels.append((f"{record.name}: IoU {show(record.miou)} %", picture))
        panels.append(("ground truth", overlay(picture, truth, names, legend=False)))
        panels.append(("label map", overlay(picture, np.asarray(label_map), names, legend=False)))
        maps += [truth, np.asarray(label_map)]
    if not panels:
        return None
    title = f"{result.title}: the {len(panels) // 3} worst of {len(result.records)}; {describe(result.settings)}"
    return side_by_side(panels, columns=3, title=title, legend=legend_of(maps, names))


def write_report(result: EvaluationResult, folder: Path) -> list[Path]:
    """Write ``results.json`` and ``results.md`` into a folder, and ``reliability.png`` where scores are known.

    Returns: their paths.
    """
    from ..draw.reliability import reliability
    from ..storage.files import save_image, save_json, write_atomically

    save_json(to_dict(result), folder / "results.json")
    write_atomically(folder / "results.md", to_markdown(result).encode())
    paths = [folder / "results.json", folder / "results.md"]
    if result.calibration:
        panels = [(KINDS[k], calibration_line(k, seen), seen.table[:, :3]) for k, seen in result.calibration.items()]
        save_image(reliability(panels), folder / "reliability.png")
        paths.append(folder / "reliability.png")
    return paths


def percent(share: float) -> float:
    """A share in per cent, exact to what a double holds: a resumed run must end with the same figure."""
    return float(share) * 100


def show(share: float) -> str:
    """A share in per cent with two decimals, as the papers print it."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def total(results: Iterable[EvaluationResult]) -> int:
    """How many problems the runs have between them."""
    return sum(len(result.problems) for result in results)
