"""Pictures of the earth that fit into no memory: read by tiles, and the label map written with its place on earth."""

from __future__ import annotations

import itertools
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ..draw.colours import colours_of
from ..errors import PictureError, SettingError
from ..imaging.opening import opened, orientation
from ..importing import needs
from ..storage.files import atomic_path, write_atomically
from ..text.labels import Labels
from .bands import Bands

if TYPE_CHECKING:
    from .segmenter import Segmenter

BLOCK = 256
CACHE = 64  # MiB, of GDAL
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def segment_geotiff(
    segmenter: Segmenter,
    source: str | Path,
    target: str | Path,
    labels: Labels | None = None,
    *,
    tile: int = 1024,
    margin: int = 128,
    bands: Sequence[int] | None = None,
    **changes: Any,
) -> dict[str, float]:
    """Segment a GeoTIFF (or whatever else rasterio reads) of any size, in memory that does not grow with it.

    Every tile is segmented as a picture by itself, with a margin around it that is thrown away; all have one size, so
    that all are resized by one factor. Values become brightness as `Bands.of` says. What the file calls nodata is left
    unlabelled.

    Args:
        segmenter: what segments.
        source: the picture's file.
        target: the GeoTIFF to write: a pixel's value is its label's index, 255 unlabelled (65535 beyond 255 labels),
            with the source's place on earth (coordinate system and transform, ground control points, rational
            polynomials) and the labels' colours. The names are under the tag ``labels`` as JSON, and in
            ``TARGET.aux.xml`` as GDAL's category names, which QGIS and ArcGIS show.
        labels: as for a segmenter's call.
        tile: pixels a side of what is kept of each tile.
        margin: pixels around it that are looked at, too.
        bands: which are red, green and blue, from 1 on, or one for grey; None for those that the file says, else the
            first three, or the first.
        **changes: settings, as for a segmenter's call. ``present`` is off unless it is given here: a word that is
            absent from a tile may be in the raster.

    Returns:
        The share of each label, of the pixels that have data.

    Raises:
        PictureError: what rasterio can't read, that has no such bands, or that says it is to be turned, which GDAL
            does not do.
        SettingError: a tile or a margin that can't be.
        MissingPackageError: without the extra ``export``.
    """
    rasterio = needs("rasterio", "export")
    if not 1 <= tile <= 2**14 or not 0 <= margin <= 2**12:
        raise SettingError(f"tile={tile}, margin={margin}; expected 1 to {2**14}, and 0 to {2**12} pixels.")
    _refuse_turned(source)
    changes.setdefault("present", False)
    names = segmenter.text_embeddings(labels, **changes)[0].labels
    beside = Path(f"{os.path.realpath(target)}.aux.xml")
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), _opened(rasterio, source) as file:
            chosen = Bands.of(file, bands)
            places = list(_tiles((file.height, file.width), tile, margin))
            results = segmenter.stream((chosen.read(file, read) for read, _ in places), labels, **changes)
            with atomic_path(target) as lent:
                counts = _written(rasterio, file, lent, names, zip(places, results, strict=True))
                beside.unlink(missing_ok=True)  # the names of the label map that is replaced now
            write_atomically(beside, _category_names(names))
    except rasterio.errors.RasterioError as error:
        raise PictureError(f"{os.fspath(source)} cannot be read as a GeoTIFF: {error}") from error
    return {name: int(count) / max(1, int(counts.sum())) for name, count in zip(names, counts, strict=True)}


def _written(rasterio: Any, file: Any, path: Path, names: Sequence[str], tiles: Iterable[Any]) -> np.ndarray:
    """The label map of an open file, written; returns the pixels of each label."""
    unlabelled = 255 if len(names) <= 255 else 65535
    dtype = "uint8" if unlabelled == 255 else "uint16"
    profile = {
        "driver": "GTiff", "width": file.width, "height": file.height, "count": 1, "dtype": dtype, "nodata": unlabelled,
        "compress": "deflate", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "if_safer",
        **_place(file),
    }  # fmt: skip
    counts = np.zeros(len(names), np.int64)
    with _created(rasterio, path, profile) as out:
        colours = {index: (*map(int, colour), 255) for index, colour in enumerate(colours_of(names))}
        out.write_colormap(1, {**colours, unlabelled: (0, 0, 0, 0)})
        out.update_tags(labels=json.dumps(list(names), ensure_ascii=False))
        for (read, kept), result in tiles:
            top, left = kept[0].start - read[0].start, kept[1].start - read[1].start
            height, width = (part.stop - part.start for part in kept)
            label_map = result.label_map[top : top + height, left : left + width].astype(np.int32)
            window = rasterio.windows.Window.from_slices(*kept)
            label_map[(file.dataset_mask(window=window) == 0) | (label_map < 0)] = unlabelled
            counts += np.bincount(label_map[label_map < len(names)], minlength=len(names))
            out.write(label_map.astype(dtype), 1, window=window)
    return counts


def _opened(rasterio: Any, source: str | Path) -> Any:
    """A file of any kind; one that does not say where on earth it is makes a label map that doesn't either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(source)


def _created(rasterio: Any, path: Path, profile: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path, "w", **profile)


def _place(file: Any) -> dict[str, Any]:
    """Where on earth a file lies, in whichever way it says so, for a file that is made."""
    points, of_points = file.gcps
    if points:
        return {"gcps": points, "crs": of_points, "rpcs": file.rpcs}
    transform = {} if file.rpcs else {"transform": file.transform}
    return {"crs": file.crs, "rpcs": file.rpcs, **transform}


def _category_names(names: Sequence[str]) -> bytes:
    """What GDAL reads beside a file as the names of its values; rasterio writes none."""
    root = ElementTree.Element("PAMDataset")
    listed = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        ElementTree.SubElement(listed, "Category").text = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", name)
    return ElementTree.tostring(root, encoding="utf-8")


def _refuse_turned(source: str | Path) -> None:
    try:
        with opened(source) as picture:
            turn = orientation(picture)
    except PictureError:  # none of Pillow's: GDAL reads more, and larger ones
        return
    if turn != 1:
        raise PictureError(
            f"{os.fspath(source)} says that it is to be turned (orientation {turn}), which GDAL does not do; the label "
            "map would lie sideways. Save it upright, or use sclip segment."
        )


def _tiles(size: tuple[int, int], tile: int, margin: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """What is read and what is kept of each tile: kept parts side by side, all read parts of one size."""
    parts = []
    for side in size:
        whole = min(side, tile + 2 * margin)
        starts = range(0, side, tile)
        reads = [min(max(0, start - margin), side - whole) for start in starts]
        parts.append([(slice(r, r + whole), slice(s, min(s + tile, side))) for r, s in zip(reads, starts, strict=True)])
    for (read_rows, rows), (read_columns, columns) in itertools.product(*parts):
        yield (read_rows, read_columns), (rows, columns)
