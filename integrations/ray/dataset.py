"""`segment_dataset`: pictures of a Ray dataset to their segments, as a step of somebody's own pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...importing import needs
from ...segment.segmenter import Segmenter
from ...text.labels import Labels
from .cluster import rooted_changes, rooted_model, start_ray, workers_of

if TYPE_CHECKING:
    import ray.data


def segment_dataset(
    ds: ray.data.Dataset,
    labels: Labels | None = None,
    *,
    model: str,
    column: str | None = None,
    preset: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    workers: int | None = None,
    **changes: Any,
) -> ray.data.Dataset:
    """Segment the pictures of a Ray dataset; lazy, as Ray Data's own steps are.

    Workers are Ray Data's actors, one model each, on GPUs where the cluster has some. A picture that fails is a row
    with its error. For a job that can be stopped and goes on where it was, see `segment_files`.

    Args:
        ds: with a column of picture files (``ray.data.read_binary_files``, Parquet) or of pixels, (H, W, 3) uint8
            (``ray.data.read_images``).
        labels: as for a segmenter's call.
        model: a name, as `Segmenter.from_pretrained` takes it.
        column: the pictures'; None where there is one column that can be it.
        preset, dtype: of `Segmenter.from_pretrained`.
        device: "cpu" keeps workers off GPUs.
        workers: how many; None for one a GPU, or for all processors but one where there are none: that one reads.
            More than GPUs share them.
        **changes: settings that differ.

    Returns:
        A dataset of the other columns and ``width``, ``height``, ``segments``, ``error``, as
        `sclip_plugin.integrations.ray.rows.ANSWER` has them.

    Raises:
        FileFormatError: no such column, none that can be the pictures', or several.
        SclipError: as for a segmenter.

    Example:
        >>> import ray
        >>> from sclip_plugin.integrations.ray import segment_dataset
        >>> ds = ray.data.read_images("photos", include_paths=True)  # doctest: +SKIP
        >>> segment_dataset(ds, ["cat", "sofa"], model="demo").write_parquet("rows")  # doctest: +SKIP
    """
    data = needs("ray.data", "ray")
    from .rows import Work
    from .sources import picture_column
    from .worker import TableWorker

    needs("pycocotools.mask", "ray")
    start_ray()
    first: Any = ds.take_batch(1, batch_format="pyarrow")  # whatever the dataset's blocks are, Arrow or pandas
    column = picture_column({field.name: field.type for field in first.schema}, "the dataset", column)
    # The driver has the model too: what is wrong with it, the labels or the settings is said before a worker starts.
    model = rooted_model(model)
    changes = rooted_changes(changes)
    segmenter = Segmenter.from_pretrained(model, device="cpu", dtype=dtype or "float32", preset=preset, **changes)
    segmenter.text_embeddings(labels)
    size, resources, chosen = workers_of(device, workers, spare=1)  # to read the pictures
    work = Work.of(segmenter, chosen, labels, model=model, preset=preset, dtype=dtype)
    return ds.map_batches(
        TableWorker,
        fn_constructor_args=(work, column),
        batch_size=16,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(size=size),
        **resources,
    )
