"""Training batches of scenes and captions: a pure function of (seed, step), so that a run can be resumed exactly.

Drawing each thing and ground anew would take longer than training on it, so a batch is composed from a bank of ready
variants, and the bank is drawn anew every `CHAPTER` draws.
"""

import functools

import numpy as np

from sclip_plugin.demo.captions import caption, draw_names
from sclip_plugin.demo.scenes import MOST_THINGS, WINDOW, compose
from sclip_plugin.demo.sprites import CLASSES, GROUNDS, THINGS, sprite
from sclip_plugin.demo.textures import ground

CHAPTER = 200  # draws for which one bank serves
_SIZES = np.linspace(26, 62, 37)  # longer sides of the ready things, pixels


class Bank:
    """Ready variants of every thing and ground; its methods stand in for `sprites.sprite` and `textures.ground`."""

    def __init__(self, rng, grounds=10, side=2 * WINDOW):
        self._sprites = {name: [sprite(name, rng, longest) for longest in _SIZES] for name in THINGS}
        self._grounds = {name: [ground(name, rng, side, side) for _ in range(grounds)] for name in GROUNDS}

    def sprite(self, name, rng, longest):
        picture = self._sprites[name][int(np.abs(_SIZES - longest).argmin())]
        return picture[:, ::-1] if rng.random() < 0.5 else picture

    def ground(self, name, rng, height, width):
        texture = self._grounds[name][rng.integers(len(self._grounds[name]))]
        y, x = rng.integers(texture.shape[0] - height + 1), rng.integers(texture.shape[1] - width + 1)
        texture = texture[y : y + height, x : x + width]
        light = rng.uniform(0.9, 1.1)
        return np.clip((texture[:, ::-1] if rng.random() < 0.5 else texture) * np.float32(light), 0, 255)


@functools.lru_cache(maxsize=1)
def _bank(seed, chapter):
    return Bank(np.random.default_rng((seed, 1, chapter)))


def draw_batch(seed, step, scenes, side=WINDOW, things=MOST_THINGS, captions=2, ground_rate=0.2):
    """Draw the batch of one training step.

    Args:
        seed, step: decide the batch entirely.
        scenes: how many scenes.
        side: width and height of a scene, pixels.
        things: the most things in a scene.
        captions: how many captions of each scene, each of a random part of what is there.
        ground_rate: how often a caption names a ground.

    Returns:
        pictures: (B, side, side, 3) uint8.
        texts: list of B * captions str; caption j belongs to scene j // captions.
        also_true: (B, B * captions) bool, where a caption is true of a scene (its own included), as told by the
            names in the scene's full caption; no mask is used.
    """
    rng, bank = np.random.default_rng((seed, 2, step)), _bank(seed, step // CHAPTER)
    pictures = np.empty((scenes, side, side, 3), np.uint8)
    absent, named, texts = np.ones((scenes, len(CLASSES)), np.float32), [], []
    for index in range(scenes):
        count = int(rng.integers(1, things + 1))
        canvas, _, shown, grounds = compose(rng, (side, side), count, bank.ground, bank.sprite)
        pictures[index] = canvas
        absent[index, [CLASSES.index(name) for name in shown + grounds]] = 0
        for _ in range(captions):
            names = draw_names(shown, grounds, rng, ground_rate)
            named.append([CLASSES.index(name) for name in names])
            texts.append(caption(names, rng))
    says = np.zeros((len(named), len(CLASSES)), np.float32)
    for index, classes in enumerate(named):
        says[index, classes] = 1
    return pictures, texts, absent @ says.T == 0
