"""An index built by Ray's workers: they look at pictures, the driver alone writes."""

from __future__ import annotations

import hashlib
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...importing import needs
from ...index.building import File, Look, looked_at
from ...index.store import IndexStore, Row
from ...segment.segmenter import Segmenter
from ...settings import Settings
from .attempts import Attempts
from .cluster import in_a_sentence, rooted_model, start_ray, workers_of
from .rows import check_weights

BLOCK = 32
"""Files in a block: what is done again of a worker that was killed."""

_ATTEMPTS = "attempts"


class RayLook:
    """What `Index.build` takes as ``look`` to have its pictures looked at on Ray.

    One model a worker, on GPUs where the cluster has some. A worker that dies is started anew; a picture that ends it
    twice is noted with its error. All machines must see the same files.

    Args:
        address: as for `start_ray`.
        model, device, dtype: as for `Segmenter.from_pretrained`; ``"cpu"`` keeps workers off GPUs.
        workers: how many; None for one a GPU, or one a processor where there are none.

    Example:
        >>> import sclip_plugin as sp
        >>> from sclip_plugin.integrations.ray import RayLook
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> sp.Index.build(seg, "photos", "photos.index", look=RayLook(None, "demo"))  # doctest: +SKIP
    """

    def __init__(
        self,
        address: str | None,
        model: str,
        device: str | None = None,
        dtype: str | None = None,
        workers: int | None = None,
    ) -> None:
        self.address = address
        self.model = model
        self.device = device
        self.dtype = dtype
        self.workers = workers

    def __call__(self, segmenter: Segmenter, root: Path, settings: Settings) -> Look:
        data = needs("ray.data", "ray")

        def look(files: list[File], store: IndexStore) -> Iterator[Row]:
            known = {digest: store.rows[number].size for digest, number in store.contents.items()}
            attempts = store.folder.absolute() / _ATTEMPTS
            blocks = [{"files": pickle.dumps(files[i : i + BLOCK])} for i in range(0, len(files), BLOCK)]
            if not blocks:
                return
            start_ray(self.address)
            workers, resources, device = workers_of(self.device, self.workers)
            size = min(workers, len(blocks))
            loading = {"name": rooted_model(self.model), "device": device, "dtype": self.dtype or segmenter.dtype}
            weights = (segmenter.dtype, segmenter.weights())
            looker = (loading, root, settings, needs("ray", "ray").put(known), attempts, uuid.uuid4().hex, weights)
            data.DataContext.get_current().enable_progress_bars = False
            done = data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
                _Looker,
                fn_constructor_args=(*looker, Image.MAX_IMAGE_PIXELS),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
                **resources,
            )
            with in_a_sentence():
                for row in done.iter_rows():
                    yield from pickle.loads(row["rows"])

        return look


class _Looker:
    """One model in one process."""

    def __init__(
        self,
        loading: dict[str, Any],
        root: Path,
        settings: Settings,
        known: Any,
        attempts: Path,
        run: str,
        weights: tuple[str, str],
        max_pixels: int | None,
    ) -> None:
        self.segmenter = Segmenter.from_pretrained(**loading)
        check_weights(self.segmenter, *weights)
        Image.MAX_IMAGE_PIXELS = max_pixels
        self.root = root
        self.settings = settings
        self.known = needs("ray", "ray").get(known)
        self.attempts = attempts
        self.run = run

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"rows": np.array([pickle.dumps(self.rows(pickle.loads(block))) for block in batch["files"]], object)}

    def rows(self, files: list[File]) -> list[Row]:
        """The rows of a block."""
        name = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        with Attempts(self.attempts / f"{name}.txt", self.run) as attempts:
            if not attempts.careful:
                return list(self._looked_at(files))
            rows = []
            for number, file in enumerate(files):
                if attempts.hopeless or attempts.blames(f"look {number}"):
                    rows.append(Row(file.path, file.length, file.mtime, error=str(attempts.error)))
                    continue
                with attempts.at(f"look {number}"):
                    rows += self._looked_at([file])
            return rows

    def _looked_at(self, files: list[File]) -> Iterator[Row]:
        return looked_at(files, self.known.get, self.segmenter, self.root, self.settings)
