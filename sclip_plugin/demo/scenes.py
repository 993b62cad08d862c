"""Scenes with exact masks: things pasted on textured grounds, the same for the same seed on every machine."""

import copy
import dataclasses

import numpy as np
from PIL import Image

from sclip_plugin.demo.captions import caption
from sclip_plugin.demo.sprites import CLASSES, GROUNDS, THINGS, sprite
from sclip_plugin.demo.textures import ground, noise
from sclip_plugin.errors import SettingError

HELD_OUT_FIRST_SEED = 1_000_000_000  # training draws seeds below this, held-out scenes from here on
WINDOW = 96  # side of the picture that the shipped model sees at once
MOST_THINGS = 3  # in a picture of that size


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn scene and what is in it.

    Attributes:
        picture: PIL picture, mode RGB.
        label_map: (H, W) int16, indices into `labels`; every pixel belongs to a label.
        labels: names present, the things first, the ground or grounds last.
        caption: words that name all of `labels`.
    """

    picture: Image.Image
    label_map: np.ndarray
    labels: tuple
    caption: str


def _ground_layout(rng, height, width, draw_ground, scale):
    """Fill a canvas with one ground, or with two that meet at a wavy horizon.

    Returns (canvas, label_map in CLASSES) of height x width pixels, and the same times ``scale``.
    """
    first, second = (str(name) for name in rng.choice(GROUNDS, 2, replace=False))
    canvas = draw_ground(first, rng, height, width)
    label_map = np.full((height, width), CLASSES.index(first), np.int16)
    one = rng.random() < 0.65
    sky_above = not one and (first == "sky" or (second != "sky" and rng.random() < 0.5))  # the sky is always above
    if not one:
        horizon = height * rng.uniform(0.3, 0.7) + 5 * noise(rng, 1, width, 1, 30)
        other = draw_ground(second, rng, height, width)
    drawn = []
    for times in dict.fromkeys((1, scale)):
        picture, labels = _enlarged(canvas, times), np.repeat(np.repeat(label_map, times, 0), times, 1)
        if not one:
            y, edge = (np.arange(height * times)[:, None] + 0.5) / times - 0.5, _enlarged(horizon, times)[:1]
            below = y > edge if sky_above else y < edge
            picture = np.where(below[..., None], _enlarged(other, times), picture)
            labels[below] = CLASSES.index(second)
        drawn.append((picture, labels))
    return drawn[0], drawn[-1]


def _enlarged(values, times):
    """(H, W) or (H, W, 3) float32 at ``times`` the size, smoothly."""
    if times == 1:
        return values
    size = (values.shape[1] * times, values.shape[0] * times)
    bands = values.reshape(*values.shape[:2], -1).transpose(2, 0, 1)
    larger = [np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BICUBIC)) for band in bands]
    return np.clip(np.stack(larger, -1), values.min(), values.max()).reshape(*size[::-1], *values.shape[2:])


def _put(drawn, picture, place, index):
    """Draw a thing at (y, x), of which a part may lie outside, into (canvas, label_map), which are changed in place."""
    (canvas, label_map), (y, x) = drawn, place
    (h, w), (height, width) = picture.shape[:2], label_map.shape
    rows, columns = slice(max(y, 0), min(y + h, height)), slice(max(x, 0), min(x + w, width))
    part = picture[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    canvas[rows, columns] = canvas[rows, columns] * (1 - part[..., 3:]) + part[..., :3]
    label_map[rows, columns][part[..., 3] > 0.5] = index


def _place(label_map, picture, rng):
    """(y, x) where a thing hides little of the others; None if no place was found."""
    h, w = picture.shape[:2]
    height, width = label_map.shape
    solid = picture[..., 3] > 0.5
    area = int(solid.sum())
    for _ in range(12):
        # Up to a fifth of a thing may leave the picture on each side.
        y = int(rng.integers(-(h // 5), height - h + h // 5 + 1))
        x = int(rng.integers(-(w // 5), width - w + w // 5 + 1))
        rows, columns = slice(max(y, 0), min(y + h, height)), slice(max(x, 0), min(x + w, width))
        inner = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
        covered = label_map[rows, columns][solid[inner]]
        if np.bincount(covered, minlength=len(THINGS))[: len(THINGS)].max() < 0.15 * area:
            return y, x
    return None


def compose(rng, size, things, draw_ground=ground, draw_sprite=sprite, longest=(28, 60), scale=1):
    """Draw one scene; the trainer calls it with cached `draw_ground` and `draw_sprite`.

    Args:
        rng: numpy Generator that decides everything.
        size: (width, height) in pixels.
        things: how many things to try to place.
        draw_ground, draw_sprite: with the signatures of `textures.ground` and `sprites.sprite`.
        longest: smallest and largest longer side of a thing, pixels.
        scale: the same scene at so many times its size.

    Returns:
        (canvas, label_map, thing names, ground names): (H, W, 3) float32 in [0, 255], (H, W) int16 into CLASSES.
    """
    width, height = size
    small, drawn = _ground_layout(rng, height, width, draw_ground, scale)
    largest = min(longest[1], 0.9 * min(size))
    for name in rng.choice(THINGS, min(things, len(THINGS)), replace=False):
        longer_side, before = rng.uniform(min(longest[0], largest), largest), copy.deepcopy(rng)
        picture, index = draw_sprite(str(name), rng, longer_side), THINGS.index(name)
        place = _place(small[1], picture, rng)
        if place is None:
            continue
        _put(small, picture, place, index)
        if scale > 1:
            larger = draw_sprite(str(name), before, longer_side * scale)
            offset = [
                start * scale + (side * scale - long) // 2
                for start, side, long in zip(place, picture.shape, larger.shape, strict=False)
            ]
            _put(drawn, larger, offset, index)
    canvas, label_map = drawn
    shown = np.bincount(label_map.ravel(), minlength=len(CLASSES))
    present = [name for name, count in zip(CLASSES, shown, strict=True) if count]
    return canvas, label_map, [n for n in present if n in THINGS], [n for n in present if n in GROUNDS]


def draw_scene(seed, size=(216, 144), scale=1):
    """Draw the scene of a seed, with its exact masks.

    Args:
        seed: int; the same seed and size give the same scene, pixel for pixel.
        size: (width, height) in pixels. Things keep their size of 28 to 60 pixels; a larger picture holds more of them.
        scale: 2 draws the same scene at twice its size, with things twice as large: finer masks.

    Returns:
        Scene; its `labels` has the things first and the grounds last.

    Raises:
        SettingError: a side of `size` is shorter than 32 pixels, or a scale that is no positive whole number.

    Example:
        >>> scene = draw_scene(7, size=(96, 96))
        >>> scene.picture.size, scene.label_map.shape
        ((96, 96), (96, 96))
    """
    if min(size) < 32:
        raise SettingError(f"size is {tuple(size)}, but a scene needs 32 pixels a side; give a larger (width, height)")
    if scale != int(scale) or scale < 1:
        raise SettingError(f"scale is {scale!r}; expected a positive whole number, such as 2 for twice the size")
    rng = np.random.default_rng(seed)
    area = size[0] * size[1] / WINDOW**2
    things = (
        int(rng.integers(1, MOST_THINGS + 1))
        if area < 2
        else int(rng.integers(round(1.0 * area), round(1.8 * area) + 1))
    )
    canvas, label_map, things, grounds = compose(rng, size, things, scale=int(scale))
    labels = tuple(things + grounds)
    position = np.zeros(len(CLASSES), np.int16)
    position[[CLASSES.index(name) for name in labels]] = np.arange(len(labels))
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    return Scene(picture, position[label_map], labels, caption(list(labels), rng))


def held_out_scenes(count, size=(WINDOW, WINDOW)):
    """Iterate over scenes that were never trained on.

    Args:
        count: how many.
        size: (width, height) of each, pixels.

    Yields:
        Scene, always the same ones in the same order.
    """
    for index in range(count):
        yield draw_scene(HELD_OUT_FIRST_SEED + index, size)
