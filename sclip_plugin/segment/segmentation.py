"""What a segmenter returns: the label map, and all that can be made of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..draw import overlay as drawing
from ..draw.colours import Colours
from ..errors import FileFormatError, SettingError, unknown_name
from ..imaging.marks import save_options
from ..imaging.pictures import Picture
from ..imaging.regions import without_specks
from ..settings import Settings
from ..steps.scores import ClassScores, Tiles
from ..storage.files import atomic_path, locked_folder, save_json
from . import results
from .checking import UNLABELLED, checked_labels, checked_map, checked_picture, checked_scores

if TYPE_CHECKING:
    from ..export.instances import Instances
    from ..export.result import Regions


class Segmentation:
    """A segmented picture: the result of a segmenter, or made of labels from elsewhere.

    Data is kept on the CPU. Scores are stored at patch resolution and upsampled on demand.

    Args:
        labels: names of the classes.
        label_map: (H, W) integers, the index into ``labels`` of each pixel; -1: unlabelled.
        picture: a picture of the same size, in any form that a segmenter takes; None: no picture.
        scores: (classes, h, w) of the picture's size, or smaller with the same proportions; None: no scores.
        settings: the settings of the result, as plain values or as `Settings`.
        presence: how surely each label is in the picture, 0 to 1, 0.5 the threshold; None: not asked, or unknown.

    Attributes:
        labels: a tuple.
        label_map: (H, W) int16.
        picture: RGB, or None.
        settings: plain values.
        presence: a dict, or None. Classes given as vectors, and background, are not in it.
        synonyms: of names that were found without a vocabulary, other words of the list that mean the same.

    Raises:
        LabelError: there are no labels, or a label is not a name.
        ShapeError: the shapes of label map, picture and scores do not match.
        SettingError: a value of the label map is not a label.

    Example:
        >>> import numpy as np, sclip_plugin as sp
        >>> sp.Segmentation(["cat", "sofa"], np.array([[0, 0, 1], [0, -1, 1]]))
        <Segmentation of 3 x 2: cat 50 %, sofa 33 %, no label 17 %>
        >>> scene = sp.draw_scene(seed=7)
        >>> result = sp.Segmenter.from_pretrained("demo")(scene.picture, scene.labels)
        >>> result.label_map.shape == result.picture.size[::-1]
        True
    """

    def __init__(
        self,
        labels: Sequence[str],
        label_map: np.ndarray | Tensor,
        picture: Picture | None = None,
        scores: np.ndarray | Tensor | ClassScores | None = None,
        settings: Mapping[str, Any] | Settings | None = None,
        presence: Mapping[str, float] | None = None,
    ) -> None:
        self.labels = checked_labels(labels)
        self.label_map = checked_map(label_map, len(self.labels))
        self.picture = checked_picture(picture, self.size)
        self._scores = checked_scores(scores, (len(self.labels), *self.size))
        self._means: dict[str, float] | None = None
        if isinstance(settings, Settings):
            settings = {**settings.plain(), "identity": settings.identity()}
        self.settings: dict[str, Any] = dict(settings or {})
        self.presence = None if presence is None else dict(presence)
        self.synonyms: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        areas = [*self.areas().items(), ("no label", float((self.label_map == UNLABELLED).mean()))]
        shown = sorted((entry for entry in areas if entry[1]), key=lambda entry: -entry[1])
        parts = [f"{label:.40} {100 * area:.0f} %" for label, area in shown[:4]]
        more = [f"{len(shown) - 4} more"] if len(shown) > 4 else []
        height, width = self.size
        return f"<Segmentation of {width} x {height}: {', '.join(parts + more)}>"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.label_map.shape
        return height, width

    @cached_property
    def scores(self) -> np.ndarray | None:
        """Class scores, (classes, H, W) float32: the softmax over all names, and of a class the best of its names.

        None where only a label map was given. Scores that would take more than 256 MiB are given at the largest size
        that takes no more; `label_map` always has the picture's own size.
        """
        return None if self._scores is None else self._scores.full(self.size)

    def score_tiles(self, device: str | torch.device = "cpu", size: tuple[int, int] | None = None) -> Tiles:
        """Class scores at the picture's own size or another, a tile at a time: rows and columns, and (classes, h, w).

        Raises:
            SettingError: there are no scores.
        """
        if self._scores is None:
            raise _no_scores()
        return self._scores.tiles(size or self.size, torch.device(device))

    def mask(self, label: str) -> np.ndarray:
        """(H, W) bool: the pixels of one label."""
        return self.label_map == self._index(label)

    def areas(self) -> dict[str, float]:
        """Fraction of the picture that each label covers, 0 to 1."""
        counts = results.counts_of(self.label_map, len(self.labels))[1:]
        return {label: int(count) / self.label_map.size for label, count in zip(self.labels, counts, strict=True)}

    def mean_scores(self, device: str | torch.device = "cpu") -> dict[str, float]:
        """The mean score of each label over the pixels that carry it; labels that no pixel carries are left out.

        Without scores it is empty, but for a result that was read from a file: that has those of its JSON. Computed on
        ``device``.
        """
        if self._scores is None:
            return dict(self._means or {})
        sums = np.zeros(len(self.labels))
        counts = np.zeros(len(self.labels), dtype=np.int64)
        for place, scores in self.score_tiles(device):
            labels = torch.from_numpy(self.label_map[place].astype(np.int64))
            own = scores.gather(0, labels.clamp(min=0)[None].to(scores.device))[0].double().cpu()
            flat = (labels + 1).ravel()
            sums += torch.bincount(flat, own.ravel(), minlength=len(self.labels) + 1)[1:].numpy()
            counts += torch.bincount(flat, minlength=len(self.labels) + 1)[1:].numpy()
        return {label: float(sums[i] / counts[i]) for i, label in enumerate(self.labels) if counts[i]}

    def rows(self, device: str | torch.device = "cpu") -> list[dict[str, Any]]:
        """Of each label its index, name, area (0 to 1), mean score and presence; None where one is unknown.

        Without presence the rows have none.
        """
        scores, there = self.mean_scores(device), self.presence
        return [
            {"index": index, "label": label, "area": area, "score": scores.get(label)}
            | ({} if there is None else {"presence": there.get(label)})
            | ({"synonyms": list(self.synonyms[label])} if label in self.synonyms else {})
            for index, (label, area) in enumerate(self.areas().items())
        ]

    def cleaned(self, min_area: int) -> Segmentation:
        """A copy without small regions: regions of fewer pixels take the label around them."""
        cleaned = copy.copy(self)
        cleaned.label_map = without_specks(self.label_map, min_area)
        return cleaned

    def overlay(
        self,
        *,
        opacity: float = 0.55,
        style: drawing.Style = "fill",
        legend: bool = True,
        colours: Colours | None = None,
    ) -> Image.Image:
        """The picture with its labels in colour, and a legend. The same word has the same colour in every picture.

        Args:
            opacity: opacity of the colours, 0 to 1.
            style: ``"fill"``, or ``"outline"`` for borders only.
            legend: add a legend, of at most a third of the picture's size.
            colours: colours by label, ``{"cat": "#e69f00"}``; other labels keep theirs.
        """
        return drawing.overlay(
            self._shown(), self.label_map, self.labels, opacity=opacity, style=style, legend=legend, colours=colours
        )

    def heatmap(self, label: str, *, stretch: bool = False) -> Image.Image:
        """The score of one label at each pixel, whatever the best label is.

        Args:
            label: one of ``labels``.
            stretch: scale from the lowest to the highest score in this picture, instead of 0 to 1.

        Raises:
            UnknownNameError, SettingError: not one of ``labels``; there are no scores.
        """
        index = self._index(label)
        if self.scores is None:
            raise _no_scores()
        scores = self.scores[index]
        if scores.shape != self.size:
            scores = np.asarray(Image.fromarray(scores).resize(self.size[::-1], Image.Resampling.BILINEAR))
        others = f"score beside {len(self.labels) - 1} other labels" if len(self.labels) > 1 else "score"
        return drawing.heatmap(self._shown(), scores, label, stretch=stretch, what=others)

    def palette_png(self, colours: Colours | None = None) -> Image.Image:
        """The label map as a palette picture: the value of a pixel is its label's index, 255: unlabelled."""
        return drawing.palette_png(self.label_map, self.labels, colours)

    def instances(self, regions: Regions = "components", min_area: int = 0) -> Instances:
        """The objects in the picture, largest first, with boxes, masks, outlines and mean scores.

        Args:
            regions: ``"components"``: one object per connected region; ``"classes"``: one object per label.
            min_area: skip objects of fewer pixels.

        Returns:
            A sequence of `sclip_plugin.export.instances.Instance`, with ``boxes()``, ``polygons(tolerance)``,
            ``to_supervision()`` and ``to_fiftyone()`` of all.

        Raises:
            MissingPackageError: without the extra ``export``.

        Example:
            >>> import numpy as np, sclip_plugin as sp
            >>> things = sp.Segmentation(["cat"], np.array([[0, -1, 0], [0, -1, -1]])).instances()
            >>> things.boxes().tolist(), [thing.area for thing in things]
            ([[0, 0, 1, 2], [2, 0, 3, 1]], [2, 1])
        """
        from ..export.instances import find_instances

        return find_instances(self, regions, min_area, scores=True)

    def to_supervision(self) -> Any:
        """Connected regions as ``supervision.Detections``; of others, ``instances(…).to_supervision()``."""
        return self.instances().to_supervision()

    def to_fiftyone(self) -> Any:
        """Connected regions as ``fiftyone.Detections``; of others, ``instances(…).to_fiftyone()``."""
        return self.instances().to_fiftyone()

    def export(
        self,
        path: str | Path,
        format: str,
        *,
        name: str | None = None,
        source: str | Path | None = None,
        **options: Any,
    ) -> list[Path]:
        """Write the result in a format of other programs.

        Args:
            path: a folder, created if missing; or the one file of the format, such as ``"photo.geojson"``.
            format: a name of `sclip_plugin.export.list_formats`.
            name: name of its files without suffix; default: the path's, the source's, or ``"picture"``.
            source: the picture's path or URL, for formats that lead back to it; of a GeoTIFF, GeoJSON in degrees.
            **options: ``regions``, ``min_area``, ``tolerance``; see `sclip_plugin.export.Format`.

        Returns:
            What was written.

        Raises:
            UnknownNameError: the format does not exist.
            SettingError: an option does not exist, or the result lacks data that the format needs.
            MissingPackageError: without the extra ``export``.

        Example:
            >>> import numpy as np, sclip_plugin as sp, tempfile
            >>> result = sp.Segmentation(["cat", "sofa"], np.eye(8, dtype=int))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     [path.name for path in result.export(folder, "png")]
            ['0-cat.png', '1-sofa.png']
        """
        from ..export import open_export

        with open_export(format, path, self.labels, **options) as out:
            given = Path(path).stem if out.file and not out.common else source and Path(source).stem
            out.add(self, name or str(given or "picture"), None if source is None else str(source))
        return out.written

    def to_dict(self) -> dict[str, Any]:
        """Labels with areas and scores, and the settings: what ``save`` writes as JSON."""
        return {
            "width": self.size[1],
            "height": self.size[0],
            "labels": self.rows(),
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
        style: drawing.Style = "fill",
        colours: Colours | None = None,
        stretch: bool = False,
        picture_format: str = "png",
        source: dict[str, Any] | None = None,
    ) -> dict[str, Path]:
        """Write the overlay, the label map, the JSON, and optionally a heat map of every label.

        All pictures are made before anything is replaced. Then the JSON of an earlier result goes first and the new one
        comes last: where a JSON lies, all that it names is there and belongs to it, whenever a process is killed and
        however many write into the folder.

        Args:
            folder: made where it is missing.
            stem: the files are ``STEM.overlay.png``, ``STEM.labels.png``, ``STEM.json``, and
                ``STEM.heatmap.INDEX-NAME.png`` with a label's index and as much of the label as a file name can hold.
                The JSON says which is which.
            opacity, style, colours: of the overlay; see `overlay`.
            stretch: of the heat maps; see `heatmap`.
            picture_format: of overlay and heat maps: ``"png"``, or ``"jpg"`` or ``"webp"`` for smaller files, whose
                names end so. The label map is a PNG always.
            source: what the picture was, for the JSON; see `results.source_of`.

        Returns:
            What was written, by kind: ``"overlay"``, ``"labels"``, ``"json"``, ``"heatmap.LABEL"``.

        Raises:
            OSError: the folder can't be written. What lay there is left as it was.
            SettingError: another picture format, or a picture that is too large for it.
        """
        folder = Path(folder)
        draw: dict[str, Callable[[], Image.Image]] = {
            "overlay": lambda: self.overlay(opacity=opacity, style=style, colours=colours),
            "labels": lambda: self.palette_png(colours),
        }
        if picture_format not in results.PICTURE_FORMATS:
            raise SettingError(f"picture_format={picture_format!r}; expected one of {list(results.PICTURE_FORMATS)}.")
        names = results.file_names(stem, self.labels, heatmaps, picture_format)
        paths = {kind: folder / name for kind, name in names.items()}
        paths["json"] = folder / f"{stem}.json"
        with contextlib.ExitStack() as lent:
            for kind in names:
                label = kind.removeprefix("heatmap.")
                picture = draw[kind]() if kind in draw else self.heatmap(label, stretch=stretch)
                kept_as = "PNG" if kind == "labels" else results.PICTURE_FORMATS[picture_format]
                options = save_options(kept_as, picture.size)
                picture.save(lent.enter_context(atomic_path(paths[kind])), kept_as, **options)
            files = {kind: paths[kind].name for kind in names}
            content = {**self.to_dict(), **({"source": source} if source else {}), "files": files}
            with locked_folder(paths["json"].parent):
                results.retire(folder, stem, list(names.values()))
                lent.close()  # now the new pictures take their places
                save_json(content, paths["json"])
        return paths

    @classmethod
    def load(cls, folder: str | Path, stem: str = "segmentation", picture: Picture | None = None) -> Segmentation:
        """What `save` wrote: labels, label map, mean scores and settings. The scores of each pixel are not on disk.

        Args:
            folder, stem: as for `save`.
            picture: the picture, for overlays.

        Raises:
            FileFormatError, ShapeError: the result is missing or broken; the picture has another size.

        Example:
            >>> import numpy as np, sclip_plugin as sp, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = sp.Segmentation(["cat", "sofa"], np.array([[0, -1], [1, 1]])).save(folder, "photo")
            ...     sp.Segmentation.load(folder, "photo").label_map.tolist()
            [[0, -1], [1, 1]]
        """
        path = Path(folder) / f"{stem}.json"
        content, label_map = results.load(path)
        try:
            entries = sorted(content["labels"], key=lambda entry: entry["index"])
            there = {e["label"]: float(e["presence"]) for e in entries if e.get("presence") is not None} or None
            loaded = cls([e["label"] for e in entries], label_map, settings=content["settings"], presence=there)
            loaded.synonyms = {e["label"]: tuple(e["synonyms"]) for e in entries if "synonyms" in e}
            loaded._means = {e["label"]: float(e["score"]) for e in entries if e["score"] is not None}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{path} is no result, as Segmentation.save writes it: {error}") from error
        loaded.picture = checked_picture(picture, loaded.size)
        return loaded

    def _index(self, label: str) -> int:
        if label not in self.labels:
            raise unknown_name("label", label, self.labels)
        return self.labels.index(label)

    def _shown(self) -> Image.Image:
        return self.picture or Image.new("RGB", self.size[::-1], "white")


def _no_scores() -> SettingError:
    return SettingError(
        "this segmentation has no scores, only a label map; expected one that a segmenter made, or "
        "Segmentation(labels, label_map, scores=...)."
    )
