"""Results as JSON: masks as COCO's run lengths, or one PNG of label indices."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from sclip_plugin.segment.segmentation import Segmentation


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of a mask (H, W): lengths down the columns, of False first.

    Example:
        >>> import numpy as np
        >>> run_lengths(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.astype(bool).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *turns, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def as_json(result: Segmentation, masks: str) -> dict[str, Any]:
    """A result as the server answers it.

    Args:
        result: what was found.
        masks: ``"rle"``: with each label its mask; ``"png"``: ``label_map``, a palette PNG in base64 whose values are
            the labels' indices, 255 where none is; ``"none"``.
    """
    scores = result.mean_scores()
    labels: list[dict[str, Any]] = []
    for index, (label, area) in enumerate(result.areas().items()):
        score = scores.get(label)
        labels.append({"label": label, "area": area, "score": None if score is None or score != score else score})
        if masks == "rle":
            labels[-1]["mask"] = run_lengths(result.label_map == index)
    answer: dict[str, Any] = {"size": list(result.label_map.shape), "labels": labels}
    if masks == "png":
        file = io.BytesIO()
        result.palette_png().save(file, "PNG")
        answer["label_map"] = base64.b64encode(file.getvalue()).decode()
    return answer
