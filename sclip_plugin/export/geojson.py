"""GeoJSON: outlines for maps, in degrees where the picture says where on earth it is, else in pixels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ..importing import needs
from ..storage.files import save_json
from .base import Format, Item
from .registry import register_format

DIGITS = 8  # of degrees: a millimetre


@register_format("geojson")
class GeoJson(Format):
    """``NAME.geojson``: a feature for each thing, with its label, index and area in pixels.

    Where the picture is a GeoTIFF, coordinates are longitude and latitude (RFC 7946); else pixels, x to the right and y
    down, (0, 0) its upper left corner. At ``tolerance=0`` outlines cover exactly the pixels.
    """

    help = "GeoJSON a picture: outlines in degrees for GeoTIFFs, else in pixels"
    suffix = ".geojson"

    def write(self, item: Item) -> list[Path]:
        shapely = needs("shapely", "export")
        place = _place(item.source, item.result.size)
        things = self.instances(item)
        features = []
        for instance, shape in zip(things, things.polygons(self.tolerance), strict=True):
            geometry: dict[str, Any] = shapely.geometry.mapping(shape)
            if place is not None:
                geometry = _on_earth(shape, *place)
            geometry = shapely.geometry.mapping(_anticlockwise(shapely.geometry.shape(geometry)))
            properties: dict[str, Any] = {"label": instance.label, "index": instance.index, "pixels": instance.area}
            if instance.presence is not None:
                properties["presence"] = instance.presence
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
        path = self.path(item)
        save_json({"type": "FeatureCollection", "features": features}, path, indent=None)
        return [path]


def _anticlockwise(shape: Any) -> Any:
    """The same with outer rings anticlockwise and holes clockwise, as RFC 7946 wants them."""
    orient = needs("shapely.geometry.polygon", "export").orient
    parts = [orient(part) for part in getattr(shape, "geoms", [shape])]
    return parts[0] if len(parts) == 1 else needs("shapely", "export").MultiPolygon(parts)


def _place(source: str | None, size: tuple[int, int]) -> tuple[Any, Any] | None:
    """The coordinate system and the transform of a GeoTIFF of this size; None of anything else."""
    if source is None or Path(source).suffix.lower() not in (".tif", ".tiff") or not Path(source).is_file():
        return None
    rasterio = needs("rasterio", "export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(source) as file:
            if file.crs is None or (file.height, file.width) != size:
                return None
            return file.crs, file.transform


def _on_earth(shape: Any, crs: Any, transform: Any) -> dict[str, Any]:
    there = needs("shapely.affinity", "export").affine_transform(shape, transform.to_shapely())
    geometry = needs("shapely.geometry", "export").mapping(there)
    return needs("rasterio.warp", "export").transform_geom(crs, "EPSG:4326", geometry, precision=DIGITS)
