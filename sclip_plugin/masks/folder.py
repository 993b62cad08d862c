"""Masks that lie in a folder, a file a picture: what an annotator, a detector or SAM's own script wrote."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import FileFormatError, PictureError, PictureNotFoundError
from ..fields import field_of
from ..imaging.opening import opened, upright
from .base import MaskSource
from .registry import register_mask_source

SUFFIXES = (".png", ".npz", ".npy", ".json")


@register_mask_source("folder")
@dataclass(frozen=True, kw_only=True)
class FolderMasks(MaskSource):
    """A file for each picture, by the picture's stem.

    ``.png``: an id map, of 8 or 16 bits or a palette, turned by its EXIF orientation; 0 is no region. ``.npz``: one
    array, or that called ``instance_mask``; ``.npy``: an id map (H, W) or masks (R, H, W). ``.json``: COCO's run-length
    encoding, a list of ``{"segmentation": {"size", "counts"}}`` as SAM's script writes it, or under ``"annotations"``.

    Fields:
        path: the folder.
    """

    summary = "a folder of files by the pictures' stems: id maps as PNG, npz, npy; COCO RLE as JSON"
    kept = False
    path: str = field_of("masks", "the folder", holds="path")

    def __call__(self, picture: Image.Image) -> np.ndarray:
        folder = Path(self.path).expanduser()
        name = getattr(picture, "filename", "")
        if not name:
            raise PictureError(
                f"masks in the folder {self.path} are found by the picture's file name, and this picture was not given "
                "as a path; give its path, or masks in hand to Encoded.classify or mask_vote."
            )
        found = [folder / (Path(name).stem + suffix) for suffix in SUFFIXES]
        path = next((path for path in found if path.is_file()), None)
        if path is None:
            raise PictureNotFoundError(
                f"no masks for {name} in {folder}; expected one of {', '.join(path.name for path in found)}."
            )
        return read_masks(path)


def read_masks(path: str | Path) -> np.ndarray:
    """Masks from a file, in either form of `MaskSource`; see `FolderMasks` for the formats.

    Raises:
        FileFormatError: not such a file.
    """
    path = Path(path)
    try:
        if path.suffix == ".png":
            with opened(path) as picture:
                if picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                    raise ValueError(f"a picture of mode {picture.mode}; expected one channel of 8 or 16 bits")
                return np.asarray(upright(picture)).astype(np.int32)
        if path.suffix in (".npz", ".npy"):
            content: Any = np.load(path, allow_pickle=False)
            if path.suffix == ".npy":
                return np.asarray(content)
            with content:
                names = list(content.keys())
                if "instance_mask" not in names and len(names) != 1:
                    raise ValueError(f"arrays {names}; expected one, or one called instance_mask")
                return np.asarray(content["instance_mask" if "instance_mask" in names else names[0]])
        return _from_coco(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # whatever a broken file makes of its reader
        raise FileFormatError(f"{path} holds no masks that can be read: {error}") from error


def _from_coco(content: Any) -> np.ndarray:
    entries = content["annotations"] if isinstance(content, dict) else content
    if not entries:
        raise ValueError("it has no masks")
    return np.stack([decoded(entry["segmentation"] if "segmentation" in entry else entry) for entry in entries])


def decoded(run_lengths: dict[str, Any]) -> np.ndarray:
    """COCO's run lengths as a mask (H, W). pycocotools trusts sizes and counts; a broken file ends the process."""
    height, width = run_lengths["size"]
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"a mask of {height} x {width} is above the limit of {Image.MAX_IMAGE_PIXELS:,} pixels")
    given = run_lengths["counts"]
    counts = np.asarray(given if isinstance(given, list) else _uncompressed(given))
    if not (counts.ndim == 1 and counts.dtype.kind in "iu" and (counts >= 0).all() and counts.sum() == height * width):
        raise ValueError(f"its counts are no run lengths of {height} x {width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """Counts from COCO's text: five bits a character, the lowest first, and from the fourth on differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} stands in no COCO run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) * (bits >> 4 & 1)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
