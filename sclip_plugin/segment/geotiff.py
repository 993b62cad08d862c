"""Pictures of the earth that fit into no memory: read by tiles, and the label map written with its place on earth."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..draw.colours import colours_of
from ..errors import PictureError, SettingError
from ..files import atomic_path
from ..importing import needs
from ..text.labels import Labels

if TYPE_CHECKING:
    from .segmenter import Segmenter

LOOKED_OVER = 1024  # pixels a side of the small copy that tells the range of values
DARKEST, BRIGHTEST = 2, 98  # per cent of the values that become black and white
BLOCK = 256
CACHE = 64  # MiB, of GDAL


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
    that all are resized by one factor. Values that are not 8-bit are stretched from the 2nd to the 98th per cent of
    those in a small copy of the whole. What the file calls nodata is left unlabelled.

    Args:
        segmenter: what segments.
        source: the picture's file.
        target: the GeoTIFF to write: a pixel's value is its label's index, 255 unlabelled (65535 beyond 255 labels),
            with the source's coordinate system and transform, the labels' colours, and their names under the tag
            ``labels`` as JSON.
        labels: as for a segmenter's call.
        tile: pixels a side of what is kept of each tile.
        margin: pixels around it that are looked at, too.
        bands: which are red, green and blue, from 1 on, or one for grey; the first three, or the first.
        **changes: settings, as for a segmenter's call.

    Returns:
        The share of each label, of the pixels that have data.

    Raises:
        PictureError: what rasterio can't read, or that has no such bands.
        SettingError: a tile or a margin that can't be.
        MissingPackageError: without the extra ``export``.
    """
    rasterio = needs("rasterio", "export")
    if not 1 <= tile <= 2**14 or not 0 <= margin <= 2**12:
        raise SettingError(f"tile={tile}, margin={margin}; expected 1 to {2**14}, and 0 to {2**12} pixels.")
    names = segmenter.text_embeddings(labels, **changes)[0].labels
    unlabelled = 255 if len(names) <= 255 else 65535
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE), _opened(rasterio, source) as file:
            chosen = _bands(file, bands)
            scale = _range_of_values(file, chosen)
            places = list(_tiles((file.height, file.width), tile, margin))
            profile = {
                "driver": "GTiff", "width": file.width, "height": file.height, "count": 1, "crs": file.crs,
                "transform": file.transform, "dtype": "uint8" if unlabelled == 255 else "uint16",
                "nodata": unlabelled, "compress": "deflate", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
                "bigtiff": "if_safer",
            }  # fmt: skip
            counts = np.zeros(len(names), np.int64)
            pictures = (_picture(file, chosen, scale, read) for read, _ in places)
            results = segmenter.stream(pictures, labels, **changes)
            with atomic_path(target) as lent, _created(rasterio, lent, profile) as out:
                if unlabelled == 255:
                    out.write_colormap(1, {i: (*map(int, c), 255) for i, c in enumerate(colours_of(names))})
                out.update_tags(labels=json.dumps(list(names), ensure_ascii=False))
                for (read, kept), result in zip(places, results, strict=True):
                    top, left = kept[0].start - read[0].start, kept[1].start - read[1].start
                    height, width = (part.stop - part.start for part in kept)
                    label_map = result.label_map[top : top + height, left : left + width].astype(np.int32)
                    window = rasterio.windows.Window.from_slices(*kept)
                    label_map[(file.dataset_mask(window=window) == 0) | (label_map < 0)] = unlabelled
                    counts += np.bincount(label_map[label_map < len(names)], minlength=len(names))
                    out.write(label_map.astype(profile["dtype"]), 1, window=window)
    except rasterio.errors.RasterioError as error:
        raise PictureError(f"{os.fspath(source)} cannot be read as a GeoTIFF: {error}") from error
    return {name: int(count) / max(1, int(counts.sum())) for name, count in zip(names, counts, strict=True)}


def _opened(rasterio: Any, source: str | Path) -> Any:
    """A file of any kind; one that does not say where on earth it is makes a label map that doesn't either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(source)


def _created(rasterio: Any, path: Path, profile: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path, "w", **profile)


def _bands(file: Any, bands: Sequence[int] | None) -> list[int]:
    chosen = list(bands) if bands is not None else [1, 2, 3] if file.count >= 3 else [1]
    if len(chosen) not in (1, 3) or not all(isinstance(b, int) and 1 <= b <= file.count for b in chosen):
        raise PictureError(f"bands={bands!r} of a file of {file.count}; expected one for grey, or three, from 1 on.")
    return chosen


def _range_of_values(file: Any, bands: list[int]) -> np.ndarray | None:
    """(bands, 2) of what becomes black and white; None of 8-bit values, which stay as they are."""
    if all(file.dtypes[band - 1] == "uint8" for band in bands):
        return None
    shrink = max(1.0, max(file.shape) / LOOKED_OVER)
    small = file.read(
        bands, masked=True, out_shape=(len(bands), *(max(1, round(side / shrink)) for side in file.shape))
    )
    values = [band.compressed().astype(np.float64) for band in small]
    values = [band[np.isfinite(band)] for band in values]
    return np.array([np.percentile(band, (DARKEST, BRIGHTEST)) if len(band) else (0, 1) for band in values])


def _picture(file: Any, bands: list[int], scale: np.ndarray | None, place: tuple[slice, slice]) -> np.ndarray:
    """(h, w, 3) uint8 of a part of the file."""
    rasterio = needs("rasterio", "export")
    values = file.read(bands, window=rasterio.windows.Window.from_slices(*place))
    if scale is not None:
        low, high = scale[:, 0, None, None], scale[:, 1, None, None]
        shares = (np.nan_to_num(values.astype(np.float32)) - low) / np.maximum(high - low, 1e-12)
        values = (255 * shares.clip(0, 1) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0))


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
