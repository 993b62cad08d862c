"""What pictures become on a worker: a row each, with their segments or with what was wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ...errors import SclipError, SettingError
from ...imaging.opening import named_bytes
from ...imaging.pictures import read_picture
from ...importing import needs
from ...segment.results import source_of
from ...segment.segmentation import Segmentation
from ...segment.segmenter import Segmenter
from ...settings import Settings
from .sources import Item

SEGMENT = pa.struct(
    [("label", pa.string()), ("index", pa.int32()), ("area", pa.int64()), ("score", pa.float32()),
     ("presence", pa.float32()), ("counts", pa.string())]
)  # fmt: skip
ANSWER = pa.schema(
    [("width", pa.int32()), ("height", pa.int32()), ("segments", pa.list_(SEGMENT)), ("error", pa.string())]
)
"""What a picture's row says. ``segments`` has the labels that occur: ``area`` in pixels, the mean ``score`` of those,
and COCO's compressed run lengths as ``counts``, for ``{"size": [height, width], "counts": counts}``. ``error``: why
there are none; null where all went well."""


@dataclass(frozen=True)
class Work:
    """What every worker of a job must know.

    Fields:
        model, preset, device, dtype: of `Segmenter.from_pretrained`.
        labels: as for a segmenter's call.
        settings: all of them.
        weights: the hash of the driver's, where workers have the same type of numbers.
        max_pixels: of a picture, Pillow's limit.
    """

    model: str
    preset: str | None
    device: str
    dtype: str | None
    labels: Any
    settings: Settings
    weights: tuple[str, str]
    max_pixels: int | None

    @classmethod
    def of(cls, segmenter: Segmenter, device: str, labels: Any, **loading: Any) -> Work:
        """What a driver's segmenter does."""
        weights = (segmenter.dtype, segmenter.weights())
        return cls(
            device=device, labels=labels, settings=segmenter.settings.with_absolute_paths(), weights=weights,
            max_pixels=Image.MAX_IMAGE_PIXELS, **loading,
        )  # fmt: skip


def check_weights(segmenter: Segmenter, dtype: str, weights: str) -> None:
    """Refuse another model than the driver's under the same name.

    Raises:
        SettingError: the weights differ.
    """
    if segmenter.dtype == dtype and segmenter.weights() != weights:
        raise SettingError(
            "a worker's model has other weights than the driver's; expected the same files under that name on all "
            "machines, and a model in hand as it was loaded."
        )


@dataclass(frozen=True)
class Saving:
    """Where `sclip segment`'s files of each picture go, too.

    Fields:
        folder: of the job.
        identity: what results depend on, for those files.
    """

    folder: Path
    identity: dict[str, Any]


class Rows:
    """One model, and the rows that it makes of pictures."""

    def __init__(self, work: Work, saving: Saving | None = None) -> None:
        self.labels = work.labels
        self.saving = saving
        self.segmenter = Segmenter.from_pretrained(
            work.model, device=work.device, dtype=work.dtype, preset=work.preset, settings=work.settings
        )
        check_weights(self.segmenter, *work.weights)
        Image.MAX_IMAGE_PIXELS = work.max_pixels

    def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """A row of `ANSWER` for each picture; their windows go through the tower together."""
        contents: list[bytes | np.ndarray | Exception] = []
        pictures: list[Any] = []
        for item in items:
            try:
                content = item.content()
                name = item.key or item.source
                picture = read_picture(named_bytes(content, name) if isinstance(content, bytes) else content)
                picture.filename = name  # type: ignore[attr-defined]  # by which a folder of masks finds its own
                contents.append(content)
                pictures.append(picture)
            except Exception as error:  # a picture never ends the job
                contents.append(error)
        results: list[Any]
        try:
            results = self.segmenter(pictures, self.labels, on_error="return")
        except Exception:  # one of them; which, and what of the others, is seen one by one
            results = [self._alone(picture) for picture in pictures]
        left = iter(results)
        return [
            failed(content) if isinstance(content, Exception) else self._row(item, content, next(left))
            for item, content in zip(items, contents, strict=True)
        ]

    def _alone(self, picture: Any) -> Segmentation | Exception:
        try:
            return self.segmenter(picture, self.labels)
        except Exception as error:
            return error

    def _row(self, item: Item, content: Any, result: Segmentation | Exception) -> dict[str, Any]:
        if isinstance(result, Exception):
            return failed(result)
        try:
            row = row_of(result, self.segmenter.device)
            if self.saving is not None:
                result.settings = self.saving.identity
                given = item.source if item.key is None else f"{item.source}#{item.key}"
                result.save(self.saving.folder, item.stem, source=source_of(io.BytesIO(content), given))
            return row
        except Exception as error:  # a file that can't be written is its picture's, too
            return failed(error)


def row_of(result: Segmentation, device: Any) -> dict[str, Any]:
    """What a picture's row says of its segments; scores are computed on ``device``."""
    coco = needs("pycocotools.mask", "ray")
    scores = result.mean_scores(device)
    segments = []
    for index in np.unique(result.label_map):
        if index < 0:
            continue
        mask = np.asfortranarray(result.label_map == index, dtype=np.uint8)
        label = result.labels[index]
        counts = coco.encode(mask)["counts"].decode()
        segments.append(
            {
                "label": label,
                "index": int(index),
                "area": int(mask.sum()),
                "score": scores.get(label),
                "presence": (result.presence or {}).get(label),
                "counts": counts,
            }
        )
    height, width = result.size
    return {"width": width, "height": height, "segments": segments, "error": None}


def failed(error: Exception) -> dict[str, Any]:
    """The row of a picture that could not be segmented: what was wrong, in a sentence."""
    said = str(error) if isinstance(error, SclipError) else f"{type(error).__name__}: {error}"
    return {"width": None, "height": None, "segments": None, "error": said[:1000] or type(error).__name__}
