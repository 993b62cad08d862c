"""What the server answers: results as JSON, with masks as COCO's run lengths or as one PNG of label indices."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from sclip_plugin.examples.learning import Learnt
from sclip_plugin.segment.segmentation import Segmentation

MaskFormat = Literal["rle", "png", "none"]


class RunLengths(BaseModel):
    """A mask as COCO's uncompressed RLE."""

    size: tuple[int, int] = Field(description="Height and width.")
    counts: list[int] = Field(description="Lengths of runs down the columns, a run outside the mask first.")


class LabelAnswer(BaseModel):
    """One label in a picture."""

    index: int = Field(description="Its place in the request, and its value in label_map.")
    label: str
    area: float = Field(description="Share of the picture that it covers, 0 to 1.")
    score: float | None = Field(description="Mean score of its pixels, 0 to 1; null if it covers none.")
    presence: float | None = Field(
        None, description="How surely it is in the picture, 0 to 1, 0.5 the threshold; null where that is unknown."
    )
    synonyms: list[str] | None = Field(None, description="Of a name that @auto found: words that mean the same.")
    mask: RunLengths | None = Field(None, description="With mask_format rle.")


class SegmentAnswer(BaseModel):
    """Where the labels are in a picture."""

    size: tuple[int, int] = Field(description="Height and width of the picture, upright.")
    labels: list[LabelAnswer] = Field(description="In the order of the request.")
    label_map: str | None = Field(
        None, description="With mask_format png: a palette PNG in base64 of the labels' indices, 255 for no label."
    )


class NameAnswer(BaseModel):
    """A word for something in a picture."""

    word: str
    share: float = Field(description="About how much of the picture it names, 0 to 1.")
    cosine: float = Field(description="Of the region that it fits best.")
    presence: float = Field(description="How surely it is in the picture, 0 to 1.")
    synonyms: list[str] = Field(description="Other words of the list that mean the same to the model.")


class NamesAnswer(BaseModel):
    """What is in a picture, largest share first."""

    names: list[NameAnswer]


class EncodeAnswer(BaseModel):
    """A picture that can be asked about."""

    id: str = Field(description="For POST /ask/{name}.")
    size: tuple[int, int] = Field(description="Height and width of the picture, upright.")


class LearntLabel(BaseModel):
    """One label that was learnt."""

    label: str
    pictures: int = Field(description="How many pictures show it. 0: it keeps its words.")
    share: float = Field(description="Its share of all labelled area, 0 to 1.")


class LeftOut(BaseModel):
    """mIoU of left-out pictures in percent."""

    words: float
    tuned: float


class TuneAnswer(BaseModel):
    """Labels that were learnt."""

    id: str = Field(description="For the field `tuned` of later questions.")
    labels: list[LearntLabel] = Field(description="In the order of the request.")
    left_out: LeftOut | None = Field(description="What the examples are worth; null below three pictures.")
    chosen: float | str = Field(description="How near to the words rows are held; or `words`, if pictures do not gain.")
    threshold: float | None = Field(description="The cosine below which a pixel is background, if that is a label.")
    problems: list[str] = Field(description="What was left out, and why.")
    file: str = Field(description="In base64, what `sclip segment --labels @FILE.safetensors` reads.")


class HealthAnswer(BaseModel):
    """The server is there."""

    status: Literal["ok"]
    version: str
    method: str


class Refusal(BaseModel):
    """Why a request was not answered, in one sentence."""

    detail: str


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of a mask (H, W): lengths down the columns, of False first.

    Example:
        >>> import numpy as np
        >>> run_lengths(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.astype(bool, copy=False).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *turns, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def learnt_as_json(name: str, learnt: Learnt) -> dict[str, Any]:
    """What was learnt, in the form of `TuneAnswer`."""
    tuned, report = learnt.tuned, learnt.tuned.report
    labels = [
        {"label": label, "pictures": report["pictures"][label], "share": report["shares"][label]}
        for label in tuned.labels
    ]
    said = {key: report[key] for key in ("left_out", "chosen", "threshold")}
    file = base64.b64encode(tuned.as_bytes()).decode()
    return {"id": name, "labels": labels, **said, "problems": list(learnt.problems), "file": file}


def as_json(result: Segmentation, mask_format: MaskFormat) -> dict[str, Any]:
    """A result as the server answers it, in the form of `SegmentAnswer`.

    Args:
        result: what was found.
        mask_format: ``"rle"``: with each label its mask; ``"png"``: ``label_map``; ``"none"``: neither.
    """
    labels = result.rows()
    for row in labels:
        if row["score"] is not None and row["score"] != row["score"]:
            row["score"] = None
        if mask_format == "rle":
            row["mask"] = run_lengths(result.label_map == row["index"])
    answer: dict[str, Any] = {"size": list(result.label_map.shape), "labels": labels}
    if mask_format == "png":
        file = io.BytesIO()
        result.palette_png().save(file, "PNG")
        answer["label_map"] = base64.b64encode(file.getvalue()).decode()
    return answer
