"""The things in a label map: connected regions, or all of a class, as boxes, masks, polygons.

Two kinds of outline are in use. Along the edges of pixels a polygon covers exactly its pixels (GeoJSON, COCO);
through the centres of its outermost pixels it is what programs expect that draw outlines as lines (YOLO, labelme).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..importing import needs
from .result import Regions, Result

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing.

    Attributes:
        label: its name.
        index: of the label.
        box: (left, top, right, bottom), in pixels; right and bottom are the first column and row outside.
        mask: (bottom - top, right - left) bool, its pixels inside the box.
        size: (height, width) of the picture.
        score: the mean score of its label over its pixels; None where there are no scores.
        presence: how surely its label is in the picture, 0 to 1; None where unknown.
    """

    label: str
    index: int
    box: tuple[int, int, int, int]
    mask: np.ndarray = field(repr=False)
    size: tuple[int, int] = field(repr=False)
    score: float | None = None
    presence: float | None = None

    @property
    def area(self) -> int:
        """Its pixels."""
        return int(np.count_nonzero(self.mask))

    def full_mask(self) -> np.ndarray:
        """(H, W) bool, of the picture's size."""
        left, top, right, bottom = self.box
        full = np.zeros(self.size, bool)
        full[top:bottom, left:right] = self.mask
        return full

    @cached_property
    def polygon(self) -> Polygon | MultiPolygon:
        """Its exact outline, holes included, along the edges of its pixels: a shapely geometry, x to the right and y
        down, (0, 0) the picture's upper left corner."""
        shapely = needs("shapely", "export")
        features = needs("rasterio.features", "export")
        affine = needs("affine", "export")
        move = affine.Affine.translation(self.box[0], self.box[1])
        found = features.shapes(self.mask.astype(np.uint8), mask=self.mask, connectivity=4, transform=move)
        parts = [shapely.geometry.shape(outline) for outline, _ in found]
        return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)

    @property
    def contour(self) -> np.ndarray:
        """The outer ring of its largest part, (n, 2) of x and y along the edges of its pixels; the last point is the
        first."""
        largest = max(parts_of(self.polygon), key=lambda part: part.area)
        return np.asarray(largest.exterior.coords)

    def rings(self, tolerance: float = 0) -> list[list[np.ndarray]]:
        """Its outlines through the centres of its outermost pixels: of each connected part the outer ring, then those
        around its holes, each (n, 2) of columns and rows of pixels."""
        cv2 = needs("cv2", "export")
        left, top, _, _ = self.box
        found, tree = cv2.findContours(self.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [cv2.approxPolyDP(ring, tolerance, True)[:, 0] + (left, top) for ring in found]
        parts: dict[int, list[np.ndarray]] = {i: [ring] for i, ring in enumerate(rings) if tree[0, i, 3] < 0}
        for i, ring in enumerate(rings):
            if tree[0, i, 3] >= 0:
                parts[int(tree[0, i, 3])].append(ring)
        return list(parts.values())


class Instances(Sequence[Instance]):
    """The things in a picture, the largest first."""

    def __init__(self, items: Sequence[Instance], size: tuple[int, int]) -> None:
        self._items = tuple(items)
        self.size = size

    @overload
    def __getitem__(self, index: int) -> Instance: ...
    @overload
    def __getitem__(self, index: slice) -> Instances: ...
    def __getitem__(self, index: int | slice) -> Instance | Instances:
        return Instances(self._items[index], self.size) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<{len(self)} instances: {', '.join(i.label for i in self._items[:5])}{', …' if len(self) > 5 else ''}>"

    def boxes(self) -> np.ndarray:
        """(n, 4) of left, top, right, bottom in pixels."""
        return np.array([item.box for item in self._items], np.int64).reshape(-1, 4)

    def polygons(self, tolerance: float = 0.75) -> list[Polygon | MultiPolygon]:
        """Outlines along the edges of pixels, holes included, as shapely geometries.

        Borders that two regions share stay shared: all are simplified together, so that no gaps open between them.

        Args:
            tolerance: about how far in pixels they may stray from the pixels' edges; 0 for exact ones.
        """
        exact = [item.polygon for item in self._items]
        if not tolerance or not exact:
            return exact
        return list(needs("shapely", "export").coverage_simplify(exact, tolerance))

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``: boxes, masks, class ids, names; confidence and presence where known."""
        supervision = needs("supervision", "export")
        scores = [item.score for item in self._items]
        masks = np.zeros((len(self), *self.size), bool)
        for mask, (left, top, right, bottom), item in zip(masks, self.boxes(), self._items, strict=True):
            mask[top:bottom, left:right] = item.mask
        data = {"class_name": np.array([item.label for item in self._items], dtype=str)}
        if any(item.presence is not None for item in self._items):  # nan: not known of this label
            data["presence"] = np.array([item.presence for item in self._items], np.float32)
        return supervision.Detections(
            xyxy=self.boxes().astype(np.float32),
            mask=masks,
            class_id=np.array([item.index for item in self._items], int),
            confidence=None if None in scores else np.array(scores, np.float32),
            data=data,
        )

    def to_fiftyone(self) -> Any:
        """As ``fiftyone.Detections``: names, relative boxes, masks inside them; confidence and presence where known."""
        fiftyone = needs("fiftyone")
        height, width = self.size
        return fiftyone.Detections(
            detections=[
                fiftyone.Detection(
                    label=item.label,
                    bounding_box=[left / width, top / height, (right - left) / width, (bottom - top) / height],
                    mask=item.mask,
                    confidence=item.score,
                    **({} if item.presence is None else {"presence": item.presence}),
                )
                for item in self._items
                for left, top, right, bottom in [item.box]
            ]
        )


def find_instances(
    result: Result, regions: Regions = "components", min_area: int = 0, *, scores: bool = False
) -> Instances:
    """The things in a result; see `Segmentation.instances`."""
    measure = needs("skimage.measure", "export")
    label_map = result.label_map
    # The ids stand in one array, 0 for no label. Pixels that share an edge are connected.
    ids = measure.label(label_map, background=-1, connectivity=1) if regions == "components" else label_map + 1
    found = [thing for thing in measure.regionprops(ids) if thing.area >= min_area]
    found.sort(key=lambda thing: (-thing.area, thing.bbox))
    means = _mean_scores(result, ids) if scores else None
    items = []
    for thing in found:
        top, left, bottom, right = thing.bbox
        index = int(label_map[top, left + int(thing.image[0].argmax())])
        score = None if means is None else float(means[thing.label])
        label, box = result.labels[index], (left, top, right, bottom)
        there = (result.presence or {}).get(label)
        items.append(Instance(label, index, box, thing.image, result.size, score, there))
    return Instances(items, result.size)


def parts_of(geometry: Polygon | MultiPolygon) -> list[Polygon]:
    """The polygons that a geometry consists of."""
    return [
        part for part in getattr(geometry, "geoms", [geometry]) if part.geom_type == "Polygon" and not part.is_empty
    ]


def without_holes(polygon: Polygon) -> list[Polygon]:
    """Polygons without holes that cover the same: cut up and down through a hole in the middle, until there is none."""
    if not polygon.interiors:
        return [polygon]
    shapely = needs("shapely", "export")
    middles = sorted(shapely.Polygon(hole).representative_point().x for hole in polygon.interiors)
    at = middles[len(middles) // 2]
    left, top, right, bottom = polygon.bounds
    halves = (polygon & shapely.box(left, top, at, bottom), polygon & shapely.box(at, top, right, bottom))
    return [piece for half in halves for part in parts_of(half) for piece in without_holes(part)]


def bridged(rings: list[np.ndarray]) -> np.ndarray:
    """One ring of an outer ring and those around its holes, joined by bridges of no width between nearest points."""
    joined = rings[0]
    for hole in sorted(rings[1:], key=lambda ring: float(ring[:, 0].min())):
        apart = ((joined[:, None] - hole[None]) ** 2).sum(axis=2)
        i, j = divmod(int(apart.argmin()), len(hole))
        joined = np.concatenate([joined[: i + 1], hole[j:], hole[: j + 1], joined[i:]])
    return joined


def _mean_scores(result: Any, ids: np.ndarray) -> np.ndarray | None:
    """The mean score of its own label over each id's pixels; None where there are no scores."""
    if result.scores is None:
        return None
    sums, counts = np.zeros(int(ids.max()) + 1), np.bincount(ids.ravel())
    for place, tile in result.score_tiles():
        labels = result.label_map[place].astype(np.int64)
        own = np.take_along_axis(tile.numpy(), np.maximum(labels, 0)[None], axis=0)[0]
        sums += np.bincount(ids[place].ravel(), own.ravel(), minlength=len(sums))
    return sums / np.maximum(counts, 1)
