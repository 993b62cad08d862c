"""`segment_files`: pictures in files to rows in files, in blocks, which a job that was stopped keeps."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SettingError
from ...importing import needs
from ...storage.files import check_writable, sweep
from ...text.labels import Labels
from .cluster import in_a_sentence, rooted_changes, rooted_model, start_ray, workers_of

if TYPE_CHECKING:
    from ...segment.segmenter import Segmenter

BLOCK = 64
"""Picture files in a block: what is done again of a worker that was killed."""


@dataclass(frozen=True)
class Summary:
    """What came of a job.

    Fields:
        folder: the Parquet folder with a row for every picture.
        blocks: how many the whole job has.
        computed: how many of them this call did.
        pictures: in the blocks that this call did.
        failed: pictures of the whole job whose row has an error.
    """

    folder: Path
    blocks: int
    computed: int
    pictures: int
    failed: int


def segment_files(
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    labels: Labels | None = None,
    *,
    out: str | os.PathLike[str],
    model: str,
    address: str | None = None,
    preset: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    workers: int | None = None,
    files: bool = False,
    retry: bool = False,
    block: int = BLOCK,
    report: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> Summary:
    """Segment a collection on Ray; a call that was stopped goes on where it was.

    Workers are Ray Data's actors, one model each, on GPUs where the cluster has some. Each takes a block of pictures,
    sends their windows through the tower together and writes one part of the results; a part that is there is not done
    again. A worker that dies is started anew with its block. A picture that fails, or that ends its worker twice, is a
    row with its error. Pictures that were added since the last call become new blocks. All machines must see the same
    files.

    Args:
        pictures: folders, files, patterns, URLs; ``.parquet`` files hold pictures in a column of bytes, ``.tar`` files
            as members (WebDataset).
        labels: as for a segmenter's call.
        out: folder of the job; ``results.parquet`` in it has the rows, see `sclip_plugin.integrations.ray.worker`.
        model: a name, as `Segmenter.from_pretrained` takes it.
        address: of the cluster, as for `start_ray`; Ray is not needed where nothing is left to do.
        preset, dtype: of `Segmenter.from_pretrained`.
        device: "cpu" keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none. More than GPUs share them.
        files: write what `sclip segment` writes for each picture too.
        retry: look again at pictures that failed in an earlier call.
        block: picture files in a block. A row group and a tar are a block each, whatever their size.
        report: called with (blocks done, blocks) as they are done.
        **changes: settings that differ.

    Returns:
        A `Summary`.

    Raises:
        JobError: ``out`` holds results of another model, other labels or settings.
        PictureError: no pictures.
        SclipError: as for a segmenter.

    Example:
        >>> from sclip_plugin.integrations.ray import segment_files
        >>> summary = segment_files("photos", ["cat", "sofa"], out="out", model="demo")  # doctest: +SKIP
    """
    needs("ray.data", "ray")
    from ...segment.segmenter import Segmenter
    from .plan import find_entries, part_path, plan_of
    from .rows import Saving, Work
    from .worker import counts_of

    if block < 1:
        raise SettingError(f"block={block!r}; expected 1 or more.")
    needs("pycocotools.mask", "ray")
    folder = Path(out).absolute()
    check_writable(folder)
    # The driver has the model too: what is wrong with it, the labels or the settings is said before a worker starts.
    # Workers may be elsewhere, so what names a file does it from the root.
    model = rooted_model(model)
    changes = rooted_changes(changes)
    segmenter = Segmenter.from_pretrained(model, device="cpu", dtype=dtype or "float32", preset=preset, **changes)
    named = {"model": model, "preset": preset, "dtype": str(dtype or "float32"), "files": files}
    identity = named | _identity(segmenter, labels)
    given = [pictures] if isinstance(pictures, (str, os.PathLike)) else pictures
    blocks = plan_of(folder, identity, find_entries([os.fspath(path) for path in given], folder), block)
    sweep(folder)
    parts = [part_path(folder, number) for number in range(len(blocks))]
    failures = {number: counts_of(part)[1] for number, part in enumerate(parts) if part.exists()}
    left = [n for n, part in enumerate(parts) if n not in failures or (retry and failures[n])]
    done = count = 0
    if left:
        start_ray(address)
        size, resources, chosen = workers_of(device, workers)
        work = Work.of(segmenter, chosen, labels, model=model, preset=preset, dtype=dtype)
        saving = Saving(folder, identity) if files else None
        rows = [
            {"block": number, "entries": json.dumps([(e.path, e.group, e.stem) for e in blocks[number]])}
            for number in left
        ]
        worker = (work, folder, uuid.uuid4().hex, saving)
        with in_a_sentence():
            for row in _computed(rows, worker, min(size, len(left)), resources):
                done, count = done + 1, count + int(row["pictures"])
                failures[int(row["block"])] = int(row["failed"])
                if report:
                    report(len(blocks) - len(left) + done, len(blocks))
    return Summary(folder / "results.parquet", len(blocks), done, count, sum(failures.values()))


def _identity(segmenter: Segmenter, labels: Labels | None) -> dict[str, Any]:
    """What results depend on beside the model's name."""
    vocabulary = segmenter.text_embeddings(labels)[0]
    settings = segmenter.settings.plain()
    return {"labels": list(vocabulary.labels), **settings, "identity": segmenter.identity(labels)}


def _computed(rows: list[Any], worker: tuple[Any, ...], size: int, resources: dict[str, Any]) -> Iterator[Any]:
    """What workers say of each block, as blocks are done."""
    from .worker import Worker

    data = needs("ray.data", "ray")
    data.DataContext.get_current().enable_progress_bars = False
    done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=worker,
        batch_size=1,
        compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        **resources,
    )
    return done.iter_rows()
