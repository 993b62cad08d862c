"""An evaluation in Ray's actors: each runs `evaluate` on its share, as a process of torchrun does, and all agree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...errors import SettingError
from ...evaluation.picture_log import ResumeError
from ...evaluation.prediction import SegmenterPrediction
from ...evaluation.processes import Processes
from ...evaluation.runner import EvaluationResult, evaluate
from ...evaluation.sets import EvaluationSet
from ...importing import needs
from ...protocols.presets import Preset
from .cluster import in_a_sentence, rooted_changes, rooted_model, start_ray, workers_of

T = TypeVar("T")

_RETRIES = 3


class _Meeting:
    """Where the workers' values meet, round by round. Rounds stay known, so that a worker that was started anew goes
    through those that are over and hears what all heard."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.rounds: dict[int, dict[int, Any]] = {}
        self.full: dict[int, asyncio.Event] = {}
        self.done: dict[int, tuple[int, int]] = {}

    async def gather(self, number: int, rank: int, value: Any) -> list[Any]:
        values = self.rounds.setdefault(number, {})
        full = self.full.setdefault(number, asyncio.Event())
        values.setdefault(rank, value)
        if len(values) == self.world:
            full.set()
        await full.wait()
        return [values[rank] for rank in range(self.world)]

    async def tell(self, rank: int, done: int, of: int) -> None:
        self.done[rank] = done, of

    async def progress(self) -> tuple[int, int]:
        return sum(done for done, _ in self.done.values()), sum(of for _, of in self.done.values())


class _RayProcesses(Processes):
    """A worker among those of the run; values meet in an actor, in the place of torch.distributed."""

    def __init__(self, rank: int, world: int, meeting: Any) -> None:
        super().__init__(rank, world)
        object.__setattr__(self, "_meeting", meeting)
        object.__setattr__(self, "_round", 0)

    def gather(self, value: T) -> list[T]:
        import ray

        object.__setattr__(self, "_round", self._round + 1)  # type: ignore[attr-defined]
        return ray.get(self._meeting.gather.remote(self._round, self.rank, value))  # type: ignore[attr-defined]


class _Worker:
    """One model in one process."""

    def __init__(self, rank: int, world: int, model: str, device: str, dtype: str | None) -> None:
        from ...segment.segmenter import Segmenter

        self.rank = rank
        self.world = world
        self.model = model
        self.segmenter = Segmenter.from_pretrained(model, device=device, dtype=dtype)

    def run(
        self,
        data: EvaluationSet,
        preset: Preset,
        changes: Mapping[str, Any],
        output: Path,
        options: Mapping[str, Any],
        meeting: Any,
    ) -> EvaluationResult | ResumeError | None:
        predict = SegmenterPrediction(self.segmenter, preset, changes)
        processes = _RayProcesses(self.rank, self.world, meeting)
        try:
            result = evaluate(
                data, predict, settings=predict.settings(self.model), output=output, processes=processes,
                report=lambda done, of, totals: meeting.tell.remote(self.rank, done, of), **options,
            )  # fmt: skip
        except ResumeError as error:
            return error
        return result if self.rank == 0 else None


class RayEvaluation:
    """Workers that evaluate one model, run after run: one a GPU, or one a processor where there are none.

    A worker that dies is started anew, at most three times, and does its share again; the counts are the same.

    Args:
        address: as for `start_ray`.
        model, device, dtype: as for `Segmenter.from_pretrained`; ``"cpu"`` keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none.

    Example:
        >>> from sclip_plugin.integrations.ray.evaluation import RayEvaluation
        >>> workers = RayEvaluation(None, "demo", "cpu", "float32")  # doctest: +SKIP
    """

    def __init__(
        self, address: str | None, model: str, device: str | None, dtype: str | None, workers: int | None = None
    ) -> None:
        start_ray(address)
        self.ray = needs("ray", "ray")
        self.world, resources, chosen = workers_of(device, workers)
        room = workers_of(device)[0]
        if self.world > room:  # all have to be there at once
            raise SettingError(f"workers={workers}; expected {room} or fewer, which is what the cluster has room for.")
        kind = self.ray.remote(_Worker).options(max_restarts=_RETRIES, max_task_retries=_RETRIES, **resources)
        self.workers = [kind.remote(rank, self.world, rooted_model(model), chosen, dtype) for rank in range(self.world)]

    def evaluate(
        self,
        data: EvaluationSet,
        preset: Preset,
        changes: Mapping[str, Any],
        output: Path,
        report: Callable[[int, int], object] | None = None,
        **options: Any,
    ) -> EvaluationResult:
        """The figures of one run, the same as without Ray.

        Args:
            data, output: as for `sclip_plugin.evaluation.runner.evaluate`; all machines must see the same files.
            preset, changes: as for `SegmenterPrediction`.
            report: called now and then with (pictures done, pictures).
            **options: of `evaluate`: resume, limit, batch, workers, save_maps.

        Raises:
            ResumeError: the folder holds partial results of a run with other settings.
        """
        meeting = self.ray.remote(_Meeting).options(num_cpus=0, max_concurrency=1000).remote(self.world)
        output = Path(output).absolute()
        changes = rooted_changes(changes)
        waiting = [worker.run.remote(data, preset, changes, output, options, meeting) for worker in self.workers]
        first = waiting[0]
        with in_a_sentence():
            while waiting:
                done, waiting = self.ray.wait(waiting, timeout=0.5)
                for error in self.ray.get(done):
                    if isinstance(error, ResumeError):
                        raise error
                if report and (progress := self.ray.get(meeting.progress.remote()))[0]:
                    report(*progress)
        return self.ray.get(first)
