"""The registry of mask sources, how a text becomes one, and what they gave, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ArgumentTypeError
from ..grammar import Parts, registering
from ..storage.cache import DiskCache, cache_root
from .base import MaskSource, checked

MASK_SOURCES = Parts("mask source", "sclip_plugin.masks", MaskSource)
"""Maps a name to a `MaskSource` subclass."""

register_mask_source = registering(MASK_SOURCES)
"""Class decorator: make a `MaskSource` subclass known by a name.

An installed package can do the same with an entry point in the group ``sclip_plugin.masks``.
"""


def list_mask_sources() -> tuple[str, ...]:
    """Names of all mask sources, those of installed entry points included."""
    return MASK_SOURCES.names()


def find_masks(source: str | MaskSource) -> MaskSource:
    """A mask source from its text.

    Args:
        source: ``"slic"``, ``"slic:300"``, ``"slic(segments=300)"``; a model as ``"sam:facebook/sam-vit-base"`` or
            ``"panoptic:facebook/mask2former-swin-large-coco-panoptic"``, by hub id or folder; a folder of files, named
            by the pictures' stems. A source in hand is returned as it is.

    Raises:
        SettingError: a text that can't be read, or an option of another type.
        UnknownNameError: no such source or option.

    Example:
        >>> from sclip_plugin.masks import find_masks
        >>> find_masks("slic(segments=300)").segments
        300
    """
    if isinstance(source, MaskSource):
        return source
    if not isinstance(source, str):
        raise ArgumentTypeError(
            f"masks were given as {type(source).__name__}; expected a text such as 'slic', 'sam:NAME' or a folder, "
            "or a MaskSource. Masks in hand go to sclip_plugin.masks.mask_vote and Encoded.classify."
        )
    if _names_a_folder(source):
        return MASK_SOURCES["folder"](path=source)
    return MASK_SOURCES.make(source)


def _names_a_folder(text: str) -> bool:
    kind = text.partition(":")[0].partition("(")[0]
    return kind not in list_mask_sources() and ("/" in text or Path(text).expanduser().is_dir())


def masks_of(source: MaskSource, picture: Image.Image) -> np.ndarray:
    """The masks of a picture, from the user's cache folder if it has them.

    Returns:
        An id map (H, W) int32, or masks (R, H, W) of bool; see `MaskSource`.

    Raises:
        ShapeError: a source gave masks of another size.
    """
    size = (picture.height, picture.width)
    said = source.as_text()
    if not source.kept or said is None:
        return checked(source(picture), size, f"the masks of {source.name or type(source).__name__}")
    cache = DiskCache(cache_root() / "masks")
    key = f"{said}{_weights_of(source)} {size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
    content = cache.get(key)
    if content is not None:
        with np.load(io.BytesIO(content)) as file:
            masks = file["masks"]
            return masks if masks.dtype == np.int32 else np.unpackbits(masks, axis=-1, count=size[1]).astype(bool)
    masks = checked(source(picture), size, f"the masks of {source.name}")
    packed = masks if masks.dtype == np.int32 else np.packbits(masks, axis=-1)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, masks=packed)
    cache.put(key, buffer.getvalue())
    return masks


def _weights_of(source: MaskSource) -> str:
    """Sizes and dates of the files that options name, so that masks by other weights under the same name are others."""
    named = [Path(value).expanduser() for value in dataclasses.asdict(source).values() if isinstance(value, str)]
    files = [file for path in named if path.exists() for file in sorted([path, *path.glob("*")]) if file.is_file()]
    return "".join(f" {file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
