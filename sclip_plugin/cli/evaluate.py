"""``sclip eval``, in several processes as ``torchrun … -m sclip_plugin eval``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from ..errors import SettingError
from .anomaly import evaluate_anomalies
from .options import Changes, Device, Dtype, Taught, parse_changes, quiet_transformers, teach, tell_of_long_bank
from .presence import null_of_set
from .ray import Ray, RayGroup
from .terminal import say, shown, tell

if TYPE_CHECKING:
    from ..evaluation.prediction import SegmenterPrediction
    from ..evaluation.processes import Processes
    from ..evaluation.runner import EvaluationResult
    from ..evaluation.sets import EvaluationSet
    from ..protocols.benchmarks import Benchmark
    from ..protocols.presets import Preset
    from ..segment.segmenter import Segmenter

# One command, but mounted as a group: so that options may follow the benchmark, arguments may be mixed with them.
eval_app = typer.Typer(
    cls=RayGroup,
    invoke_without_command=True,
    subcommand_metavar="",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"allow_interspersed_args": True, "help_option_names": ["-h", "--help"]},
)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One benchmark with one method."""

    data: EvaluationSet
    preset: Preset
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.data.benchmark.name}-{self.preset.settings.method_name}"


@dataclasses.dataclass(frozen=True)
class _Teaching:
    """How the classes are taught before they are evaluated."""

    most: int
    seed: int
    rns: bool

    @property
    def name(self) -> str:
        return f"{self.most}-examples-seed-{self.seed}" + "-rns" * self.rns

    def taught(self, segmenter: Segmenter, run: _Run, predict: SegmenterPrediction, folder: Path) -> Any:
        """A prediction that uses examples; the file of the labels is kept beside the results."""
        from ..evaluation.prediction import SegmenterPrediction
        from ..evaluation.support import taught, with_rns

        segmenter.taught = None
        tuned, said = taught(segmenter, predict.labels, predict.chosen, run.data, self.most, self.seed)
        for line in said:
            tell(line)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "examples.safetensors"
        tuned.save(file)
        if self.rns:
            changes = {**run.changes, "steps": with_rns(predict.chosen, file)}
            return SegmenterPrediction(segmenter, run.preset, changes)
        segmenter.taught = tuned
        return predict


@eval_app.callback()
def evaluate_command(
    benchmark: Annotated[
        str | None,
        typer.Argument(
            help="voc21, voc20, context60, context59, coco_object, coco_stuff, cityscapes or ade20k; a YAML file of "
            "your own; demo, which needs no data; all, whatever of the eight is in --data; or mvtec, anomalies in "
            "MVTec AD's layout (image- and pixel-level AUROC; --set prompts=FILE for AnomalyCLIP's)."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder; for 'all' the one with the data sets.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Only validate the data set; load no model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As for 'sclip segment'; for demo the demo's own.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Method that replaces the last block; several between commas, or 'all', are compared.")
    ] = "csa",
    preset: Annotated[
        str | None,
        typer.Option(help="Settings: sclip, naclip, clearclip, resclip, scclip; by default the method's own."),
    ] = None,
    present: Annotated[
        str | None,
        typer.Option(
            help="Ask for presence, and report how often it is right: yes, a threshold, or a file of 'sclip presence'. "
            "Where the model came without, it is learned from twenty of the pictures."
        ),
    ] = None,
    change: Changes = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results; each run gets its own folder inside.")
    ] = Path("out/eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only this many pictures, the first ones.")] = None,
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Write every label map as palette PNG.")] = False,
    worst: Annotated[
        int, typer.Option(min=0, help="Draw this many of the worst pictures beside their ground truth.")
    ] = 0,
    resume: Annotated[bool, typer.Option(help="Resume from partial results in the output folder.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per batch.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and decode.")] = 2,
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes of 'demo'.")] = 120,
    labels: Taught = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Teach the classes first, by this many pictures a class of the training set."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of --examples.")] = 100,
    rns: Annotated[
        bool, typer.Option("--rns", help="Use the examples as Retrieve and Segment does, by the step rns.")
    ] = False,
    ray: Ray = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Evaluate a model on a benchmark: mIoU, aAcc and per-class IoU, in JSON and Markdown beside published figures.

    A stopped run resumes, and ends with the same figures.

    Several processes or machines: torchrun --nproc-per-node 4 -m sclip_plugin eval voc21 --data DIR, or --ray.

    Exit code: 0 if all pictures counted, 1 if some were skipped (they are listed), 2 if nothing could start.

    Example: sclip eval voc21 --data VOCdevkit/VOC2012 --model openai/clip-vit-base-patch16 --method csa
    """
    from ..evaluation.processes import Processes

    processes = Processes.start()
    if labels is not None and (ray is not None or benchmark == "mvtec"):
        raise SettingError("--labels goes with benchmarks of classes on this machine; not with --ray, nor with mvtec.")
    if present is not None and benchmark == "mvtec":
        raise SettingError("--present goes with benchmarks of classes; not with mvtec.")
    if examples is not None and (labels or ray is not None or benchmark == "mvtec" or processes.world > 1):
        raise SettingError("--examples goes with benchmarks of classes; not with --labels, --ray, mvtec, or torchrun.")
    if rns and examples is None:
        raise SettingError("--rns uses examples; also give --examples, how many pictures a class.")
    if ray is not None and (check is not None or benchmark == "mvtec" or processes.world > 1):
        raise SettingError("--ray goes with benchmarks of classes; not with --check, mvtec, or torchrun.")
    try:
        if check is not None:
            _check(benchmark, check, limit, workers, processes)
            return
        if benchmark == "mvtec":
            evaluate_anomalies(data, model, parse_changes(change or []), out, limit, device, dtype)
            return
        if benchmark is None:
            raise typer.BadParameter("name a benchmark (voc21, ..., demo, all, or a YAML file), or give --check DATA.")
        changes = parse_changes([*([] if present is None else [f"present={present}"]), *(change or [])])
        runs, missing = _plan(benchmark, data, method, preset, changes, scenes)
        model = model or ("demo" if benchmark == "demo" else DEFAULT_MODEL)
        options = {"limit": limit, "save_maps": save_maps, "resume": resume, "batch": batch, "workers": workers}
        teaching = None if examples is None else _Teaching(examples, seed, rns)
        _evaluate(runs, missing, model, device, dtype, out, worst, options, processes, ray, labels, teaching)
    except KeyboardInterrupt:
        tell("stopped; the same command goes on where it was.")
        raise typer.Exit(130) from None
    finally:
        processes.stop()


def _plan(
    name: str, data: Path | None, methods: str, preset: str | None, changes: dict[str, Any], scenes: int
) -> tuple[list[_Run], list[tuple[str, str]]]:
    """What to run, and what of 'all' is not there."""
    from ..evaluation.datasets import DatasetError
    from ..evaluation.sets import demo_set, folder_set, locate
    from ..grammar import split
    from ..methods import make_method, methods_alone
    from ..protocols.benchmarks import list_benchmarks, load_benchmark

    chosen = list(methods_alone()) if methods == "all" else split(methods)
    for method in chosen:
        make_method(method)  # a misspelt one is said at once
    missing: list[tuple[str, str]] = []
    if name == "demo":
        sets = [demo_set(scenes)]
    else:
        if data is None:
            raise typer.BadParameter(f"'{shown(name)}' needs --data, the folder of the data set.")
        if name == "all":
            sets = []
            for one in list_benchmarks():
                try:
                    sets.append(folder_set(load_benchmark(one), locate(load_benchmark(one), data)))
                except DatasetError as error:
                    missing.append((one, str(error).removeprefix(f"{one}: ")))
            if not sets:
                raise DatasetError(f"none of the eight benchmarks is in '{data}'. " + missing[0][1])
        else:
            sets = [folder_set(load_benchmark(name), data)]
    return [
        _Run(one, _preset(one.benchmark, method, preset, explicit=methods != "csa"), changes)
        for one in sets
        for method in chosen
    ], missing


def _preset(benchmark: Benchmark, method: str, preset: str | None, explicit: bool) -> Preset:
    from ..protocols.presets import benchmark_preset, preset_for_method, with_method

    if preset is None:
        return preset_for_method(benchmark, method)
    chosen = benchmark_preset(benchmark, preset.partition("/")[0])
    return with_method(chosen, method) if explicit else chosen


def _evaluate(
    runs: list[_Run],
    missing: list[tuple[str, str]],
    model: str,
    device: str | None,
    dtype: str,
    out: Path,
    worst: int,
    options: dict[str, Any],
    processes: Processes,
    ray: str | None,
    labels: str | None,
    teaching: _Teaching | None,
) -> None:
    from ..evaluation.comparison import Comparison
    from ..evaluation.prediction import SegmenterPrediction
    from ..evaluation.progress import duration, shown_progress
    from ..evaluation.report import KINDS, calibration_line, how_many, show, worst_sheet, write_report
    from ..evaluation.runner import evaluate
    from ..segment.segmenter import Segmenter
    from ..storage.files import check_writable, sweep

    check_writable(out)
    if processes.first:
        sweep(out)
    quiet_transformers()
    if device is None and processes.world > 1:
        device = processes.device()
    # On Ray this process computes nothing; it knows the settings and labels.
    segmenter = Segmenter.from_pretrained(model, device=device if ray is None else "cpu", dtype=dtype)
    teach(segmenter, labels, check=False)  # presets have settings of their own
    workers = None
    if ray is not None:
        from ..integrations.ray.evaluation import RayEvaluation

        workers = RayEvaluation(ray or None, model, device, dtype)
    results: list[EvaluationResult] = []
    for run in runs:
        predict = SegmenterPrediction(segmenter, run.preset, run.changes)
        folder = out / _slug(model) / run.name
        null = null_of_set(segmenter, predict.chosen, run.data, folder, options["resume"], processes)
        if null is not None:
            run = dataclasses.replace(run, changes={**run.changes, "present": null})
            predict = SegmenterPrediction(segmenter, run.preset, run.changes)
        if teaching is not None:
            folder = folder.with_name(f"{run.name}-{teaching.name}")
            predict = teaching.taught(segmenter, run, predict, folder)
        if processes.first:
            tell_of_long_bank(sum(map(len, predict.labels)), len(predict.chosen.templates))
        settings = predict.settings(model)
        if teaching is not None:
            settings |= {"examples": teaching.name, "published_as": ""}
        with shown_progress(run.name, quiet=not processes.first) as report:
            if workers is not None:
                result = workers.evaluate(run.data, run.preset, run.changes, folder, report, **options)
            else:
                result = evaluate(
                    run.data, predict, settings=settings, output=folder, processes=processes, report=report, **options
                )
        results.append(result)
        if not processes.first:
            continue
        write_report(result, folder)
        say(
            f"{run.name}: mIoU {show(result.miou)}, aAcc {show(result.totals.aacc)} over {how_many(result)} "
            f"pictures ({result.computed} now, {duration(result.seconds)}) -> {folder / 'results.md'}"
        )
        for kind, seen in result.calibration.items():
            say(f"  {KINDS[kind]}: {calibration_line(kind, seen)}")
        for problem in result.problems:
            tell(f"  {problem}")
        if worst:
            sheet = worst_sheet(result, run.data, predict, worst)
            if sheet is not None:
                from ..storage.files import save_image

                save_image(sheet, folder / "worst.png")
                say(f"  the {worst} worst: {folder / 'worst.png'}")
    if not processes.first:
        return
    comparison = Comparison(results, missing)
    say("", *comparison.markdown().splitlines())
    if len(runs) > 1 or missing:
        say("", f"-> {', '.join(map(str, comparison.write(out / _slug(model))))}")
    else:
        say("", *_class_table(results[0]).splitlines())
    if any(result.problems for result in results):
        raise typer.Exit(1)


def _class_table(result: EvaluationResult) -> str:
    from ..evaluation.report import show

    rows = [(name, show(iou)) for name, iou in zip(result.class_names, result.totals.iou, strict=True)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {iou:>6}" for name, iou in rows)


def _check(name: str | None, root: Path, limit: int | None, workers: int, processes: Processes) -> None:
    from ..evaluation.checking import check_dataset
    from ..evaluation.datasets import DatasetError, find_samples
    from ..evaluation.progress import shown_progress
    from ..evaluation.sets import locate
    from ..protocols.benchmarks import list_benchmarks, load_benchmark

    if not processes.first:
        return
    # Without a name, every benchmark whose pictures and masks are there: voc21 and voc20 share theirs.
    named = [name] if name and name != "all" else []
    found, reasons = [], []
    for benchmark in map(load_benchmark, named or list_benchmarks()):
        try:
            folder = root if named else locate(benchmark, root)
            if not named:
                find_samples(benchmark, folder)
            found.append((benchmark, folder))
        except DatasetError as error:
            reasons.append((benchmark, error))
    if not found:
        raise DatasetError(
            f"'{root}' holds none of the eight benchmarks; name the one that is expected, to be told what is missing: "
            f"sclip eval BENCHMARK --check {root}. For instance {reasons[0][1]}"
        )
    if reasons:
        tell(f"not there, or without masks: {', '.join(benchmark.name for benchmark, _ in reasons)}")
    reports = []
    for benchmark, folder in found:
        with shown_progress(f"checking {benchmark.name}") as report:
            reports.append(check_dataset(benchmark, folder, workers=workers, limit=limit, progress=report))
        say(*str(reports[-1]).splitlines())
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


def _slug(model: str) -> str:
    """A model's name as a folder's; of a long path the end, with a hash of all of it."""
    slug = "".join(character if character.isalnum() or character in "._-" else "-" for character in model).strip("-.")
    if len(os.fsencode(slug)) <= 200:
        return slug
    return f"{slug[-40:].strip('-.')}-{hashlib.sha256(os.fsencode(model)).hexdigest()[:8]}"
