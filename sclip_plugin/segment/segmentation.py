"""What a segmenter returns: the label map, and all that can be made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..draw import overlay as drawing
from ..errors import unknown_name
from ..files import atomic_path, locked_folder, save_json
from ..settings import Settings
from ..text.labels import Vocabulary
from . import results
from .windows import LogitMap

UNLABELLED = -1
SCORES_LIMIT = 2**26
PIXELS_AT_ONCE = 2**22


@dataclass
class Segmentation:
    """A segmented picture.

    Attributes:
        labels: names of the classes, in the order in which they were given.
        label_map: (H, W) int16, the index into ``labels`` of each pixel, or -1 where it was left unlabelled.
        picture: the picture, RGB; None where only normalised pixels were given.
        settings: what it was made with, as plain values.

    Example:
        >>> import sclip_plugin as sp
        >>> scene = sp.draw_scene(seed=7)
        >>> result = sp.Segmenter.from_pretrained("demo")(scene.picture, scene.labels)
        >>> result.label_map.shape == result.picture.size[::-1]
        True
    """

    labels: tuple[str, ...]
    label_map: np.ndarray
    picture: Image.Image | None
    settings: dict[str, Any]
    _logits: LogitMap = field(repr=False)
    _vocabulary: Vocabulary = field(repr=False)
    _chosen: Settings = field(repr=False)
    _dropped: frozenset[int] = field(repr=False, default=frozenset())

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.label_map.shape

    @cached_property
    def scores(self) -> np.ndarray:
        """Class scores, (classes, H, W) float32: the softmax over all names, and of a class the best of its names.

        Of a picture so large that they would take more than 256 MiB, they are given at the largest size, with the same
        proportions, that takes no more; `label_map` always has the picture's own size.
        """
        height, width = self.size
        shrink = max(1.0, (height * width * len(self.labels) / SCORES_LIMIT) ** 0.5)
        size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        logits = self._logits if size == self.size else self._logits.resized(size)
        out = np.empty((len(self.labels), *size), dtype=np.float32)
        for (rows, columns), scores in self._score_tiles(logits):
            out[:, rows, columns] = scores.cpu().numpy()
        return out

    def score_tiles(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Class scores of the whole picture, a tile at a time: its rows and columns, and (classes, h, w) on the model's
        device. For what handles them at a picture's own size, however large."""
        return self._score_tiles(self._logits)

    def _score_tiles(self, logits: LogitMap) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        for place, tile in logits.tiles():
            yield place, class_scores(tile, self._vocabulary, self._chosen, self._dropped)

    def mask(self, label: str) -> np.ndarray:
        """(H, W) bool: the pixels of one label.

        Raises:
            UnknownNameError: not one of ``labels``.
        """
        return self.label_map == self._index(label)

    def areas(self) -> dict[str, float]:
        """The share of the picture that each label covers, 0 to 1; unlabelled pixels are in none."""
        counts = _counts(self.label_map, len(self.labels))[1:]
        return {label: int(count) / self.label_map.size for label, count in zip(self.labels, counts, strict=True)}

    def mean_scores(self) -> dict[str, float]:
        """The mean score of each label over the pixels that carry it; labels that no pixel carries are left out."""
        sums = np.zeros(len(self.labels))
        counts = np.zeros(len(self.labels), dtype=np.int64)
        for place, scores in self.score_tiles():
            labels = torch.from_numpy(self.label_map[place].astype(np.int64)).to(scores.device)
            own = scores.gather(0, labels.clamp(min=0)[None])[0].double()
            flat = (labels + 1).ravel()
            sums += torch.bincount(flat, own.ravel(), minlength=len(self.labels) + 1)[1:].cpu().numpy()
            counts += torch.bincount(flat, minlength=len(self.labels) + 1)[1:].cpu().numpy()
        return {label: float(sums[i] / counts[i]) for i, label in enumerate(self.labels) if counts[i]}

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The picture with its labels in colour, and a legend."""
        return drawing.overlay(self._shown(), self.label_map, self.labels, opacity=opacity, legend=legend)

    def heatmap(self, label: str) -> Image.Image:
        """How much each pixel looks like one label, whatever the best label is."""
        scores = self.scores[self._index(label)]
        if scores.shape != self.size:
            scores = np.asarray(Image.fromarray(scores).resize(self.size[::-1], Image.Resampling.BILINEAR))
        return drawing.heatmap(self._shown(), scores, label)

    def palette_png(self) -> Image.Image:
        """The label map as a palette picture: a pixel's value is its index, 255 unlabelled."""
        return drawing.palette_png(self.label_map, len(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """Labels with areas and scores, and the settings: what ``save`` writes as JSON."""
        areas, scores = self.areas(), self.mean_scores()
        height, width = self.size
        return {
            "width": width,
            "height": height,
            "labels": [
                {"index": index, "label": label, "area": areas[label], "score": scores.get(label)}
                for index, label in enumerate(self.labels)
            ],
            "unlabelled": float((self.label_map == UNLABELLED).mean()),
            "settings": self.settings,
        }

    def save(
        self,
        folder: str | Path,
        stem: str = "segmentation",
        *,
        heatmaps: bool = False,
        opacity: float = 0.55,
        source: dict[str, Any] | None = None,
    ) -> dict[str, Path]:
        """Write the overlay, the label map, the JSON, and on request a heat map of every label.

        All pictures are made before anything is replaced. Then the JSON of an earlier result goes first and the new one
        comes last: where a JSON lies, all that it names is there and belongs to it, whenever a process is killed and
        however many write into the folder.

        Args:
            folder: made where it is missing.
            stem: the files are ``STEM.overlay.png``, ``STEM.labels.png``, ``STEM.json``, and
                ``STEM.heatmap.INDEX-NAME.png`` with a label's index and as much of the label as a file name can hold.
                The JSON says which is which.
            opacity: of the overlay's colours, 0 to 1.
            source: what the picture was, for the JSON; see `results.source_of`.

        Returns:
            What was written, by kind: ``"overlay"``, ``"labels"``, ``"json"``, ``"heatmap.LABEL"``.

        Raises:
            OSError: the folder can't be written. What lay there is left as it was.
        """
        folder = Path(folder)
        draw: dict[str, Callable[[], Image.Image]] = {
            "overlay": lambda: self.overlay(opacity=opacity),
            "labels": self.palette_png,
        }
        names = results.file_names(stem, self.labels, heatmaps)
        paths = {kind: folder / name for kind, name in names.items()}
        paths["json"] = folder / f"{stem}.json"
        with contextlib.ExitStack() as lent:
            for kind in names:
                picture = draw[kind]() if kind in draw else self.heatmap(kind.removeprefix("heatmap."))
                picture.save(lent.enter_context(atomic_path(paths[kind])), "PNG", pnginfo=results.png_info())
            files = {kind: paths[kind].name for kind in names}
            content = {**self.to_dict(), **({"source": source} if source else {}), "files": files}
            with locked_folder(paths["json"].parent):
                results.retire(folder, stem, list(names.values()))
                lent.close()  # now the new pictures take their places
                save_json(content, paths["json"])
        return paths

    def _index(self, label: str) -> int:
        if label not in self.labels:
            raise unknown_name("label", label, self.labels)
        return self.labels.index(label)

    def _shown(self) -> Image.Image:
        if self.picture is not None:
            return self.picture
        return Image.new("RGB", self.size[::-1], "white")


def _counts(label_map: np.ndarray, classes: int) -> np.ndarray:
    """(classes + 1,) pixels of no label, then of each class.

    numpy counts in eight bytes a pixel, so a part is counted at a time.
    """
    counts = np.zeros(classes + 1, dtype=np.int64)
    pixels = label_map.reshape(-1)
    for start in range(0, len(pixels), PIXELS_AT_ONCE):
        counts += np.bincount(pixels[start : start + PIXELS_AT_ONCE] + 1, minlength=classes + 1)
    return counts


def class_scores(tile: Tensor, vocabulary: Vocabulary, settings: Settings, dropped: frozenset[int]) -> Tensor:
    """Scores of names (h, w, K) to scores of classes (classes, h, w): softmax over names, maximum over a class's."""
    scores = (tile * settings.logit_scale).softmax(dim=-1).permute(2, 0, 1).contiguous()
    if len(vocabulary.labels) != len(vocabulary.names):
        index = torch.tensor(vocabulary.class_of_name, device=tile.device)[:, None, None].expand_as(scores)
        empty = scores.new_zeros(len(vocabulary.labels), *scores.shape[1:])
        scores = empty.scatter_reduce(0, index, scores, "amax", include_self=False)
    if dropped:
        scores[sorted(dropped)] = 0
    return scores / scores.sum(dim=0) if settings.normalize_scores else scores


def decide(logits: LogitMap, vocabulary: Vocabulary, settings: Settings) -> tuple[np.ndarray, frozenset[int]]:
    """The label map (H, W) int16, and the classes that the area threshold dropped."""
    label_map = _argmax(logits, vocabulary, settings, frozenset())
    dropped: frozenset[int] = frozenset()
    if settings.area_threshold is not None:
        areas = _counts(label_map, len(vocabulary.labels))[2:]
        if areas.sum():
            small = np.flatnonzero(~(areas > settings.area_threshold * areas.sum())) + 1
            dropped = frozenset(int(index) for index in small)
    if dropped or settings.prob_threshold or settings.threshold:
        label_map = _argmax(logits, vocabulary, settings, dropped, thresholds=True)
    return label_map, dropped


def _argmax(
    logits: LogitMap, vocabulary: Vocabulary, settings: Settings, dropped: frozenset[int], thresholds: bool = False
) -> np.ndarray:
    """The class of the best name of each pixel; with ``thresholds``, those too."""
    class_of_name = torch.tensor(vocabulary.class_of_name, device=logits.logits.device)
    gone = torch.tensor([c in dropped for c in vocabulary.class_of_name], device=logits.logits.device)
    label_map = np.empty(logits.size, dtype=np.int16)
    thresholds = thresholds and bool(settings.prob_threshold or settings.threshold)
    for place, tile in logits.tiles():
        # The softmax keeps the order, so the best class is that of the best name.
        total = (tile * settings.logit_scale).logsumexp(dim=-1) if thresholds else None
        best, name = (tile.masked_fill(gone, -torch.inf) if dropped else tile).max(dim=-1)
        labels = class_of_name[name]
        if total is not None:
            score = (best * settings.logit_scale - total).exp()
            if settings.prob_threshold:
                labels = labels.masked_fill(score < settings.prob_threshold, 0)
            if settings.threshold:
                labels = labels.masked_fill(score < settings.threshold, UNLABELLED)
        label_map[place] = labels.to(torch.int16).cpu().numpy()
    return label_map
