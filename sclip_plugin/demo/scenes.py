"""Scenes with exact masks: things pasted on textured grounds, the same for the same seed on every machine."""

import dataclasses

import numpy as np
from PIL import Image

from sclip_plugin.demo.captions import caption
from sclip_plugin.demo.sprites import CLASSES, GROUNDS, THINGS, sprite
from sclip_plugin.demo.textures import _noise, ground
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


def _ground_layout(rng, height, width, draw_ground):
    """Fill a canvas with one ground, or with two that meet at a wavy horizon; (canvas, label_map in CLASSES, names)."""
    first, second = (str(name) for name in rng.choice(GROUNDS, 2, replace=False))
    canvas = draw_ground(first, rng, height, width)
    label_map = np.full((height, width), CLASSES.index(first), np.int16)
    if rng.random() < 0.65:
        return canvas, label_map, [first]
    if first == "sky" or (second != "sky" and rng.random() < 0.5):  # the sky is always above
        below = np.arange(height)[:, None] > height * rng.uniform(0.3, 0.7) + 5 * _noise(rng, 1, width, 1, 30)
    else:
        below = np.arange(height)[:, None] < height * rng.uniform(0.3, 0.7) + 5 * _noise(rng, 1, width, 1, 30)
    canvas = np.where(below[..., None], draw_ground(second, rng, height, width), canvas)
    label_map[below] = CLASSES.index(second)
    return canvas, label_map, [first, second]


def _paste(canvas, label_map, picture, index, rng):
    """Paste a thing where it hides little of the others; change both arrays in place; False if no place was found."""
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
            part = picture[inner]
            canvas[rows, columns] = canvas[rows, columns] * (1 - part[..., 3:]) + part[..., :3]
            label_map[rows, columns][solid[inner]] = index
            return True
    return False


def compose(rng, size, things, draw_ground=ground, draw_sprite=sprite, longest=(28, 60)):
    """Draw one scene; the trainer calls it with cached `draw_ground` and `draw_sprite`.

    Args:
        rng: numpy Generator that decides everything.
        size: (width, height) in pixels.
        things: how many things to try to place.
        draw_ground, draw_sprite: with the signatures of `textures.ground` and `sprites.sprite`.
        longest: smallest and largest longer side of a thing, pixels.

    Returns:
        (canvas, label_map, thing names, ground names): (H, W, 3) float32 in [0, 255], (H, W) int16 into CLASSES.
    """
    width, height = size
    canvas, label_map, grounds = _ground_layout(rng, height, width, draw_ground)
    largest = min(longest[1], 0.9 * min(size))
    for name in rng.choice(THINGS, min(things, len(THINGS)), replace=False):
        picture = draw_sprite(str(name), rng, rng.uniform(min(longest[0], largest), largest))
        _paste(canvas, label_map, picture, THINGS.index(name), rng)
    shown = np.bincount(label_map.ravel(), minlength=len(CLASSES))
    present = [name for name, count in zip(CLASSES, shown, strict=True) if count]
    return canvas, label_map, [n for n in present if n in THINGS], [n for n in present if n in GROUNDS]


def draw_scene(seed, size=(216, 144)):
    """Draw the scene of a seed, with its exact masks.

    Args:
        seed: int; the same seed and size give the same scene, pixel for pixel.
        size: (width, height) in pixels. Things keep their size of 28 to 60 pixels; a larger picture holds more of them.

    Returns:
        Scene; its `labels` has the things first and the grounds last.

    Raises:
        SettingError: a side of `size` is shorter than 32 pixels.

    Example:
        >>> scene = draw_scene(7, size=(96, 96))
        >>> scene.picture.size, scene.label_map.shape
        ((96, 96), (96, 96))
    """
    if min(size) < 32:
        raise SettingError(f"size is {tuple(size)}, but a scene needs 32 pixels a side; give a larger (width, height)")
    rng = np.random.default_rng(seed)
    area = size[0] * size[1] / WINDOW**2
    things = (
        int(rng.integers(1, MOST_THINGS + 1))
        if area < 2
        else int(rng.integers(round(1.0 * area), round(1.8 * area) + 1))
    )
    canvas, label_map, things, grounds = compose(rng, size, things)
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
