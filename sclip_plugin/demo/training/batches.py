"""Training batches of scenes and captions: a pure function of (seed, step), so that a run can be resumed exactly.

Drawing each thing and ground anew would take longer than training on it, so a batch is composed from a bank of ready
variants, and the bank is renewed every `CHAPTER` draws.
"""

import functools

import numpy as np

from sclip_plugin.demo.captions import caption, draw_names
from sclip_plugin.demo.scenes import MOST_THINGS, WINDOW, compose
from sclip_plugin.demo.sprites import CLASSES, sprite
from sclip_plugin.demo.textures import ground

CHAPTER = 400  # draws for which one bank serves
_SIZES = np.linspace(26, 62, 37)  # longer sides of the ready things, pixels


class Bank:
    """Ready variants of every thing and ground; its methods stand in for `sprites.sprite` and `textures.ground`.

    A variant is drawn when it is first asked for, from a seed of its own, so that the order of asking does not matter.
    """

    def __init__(self, seed, textures=10, side=2 * WINDOW):
        self.seed, self.textures, self.side, self._drawn = tuple(seed), textures, side, {}

    def _variant(self, draw, name, number, *arguments):
        key = (CLASSES.index(name), number)
        if key not in self._drawn:
            self._drawn[key] = draw(name, np.random.default_rng((*self.seed, *key)), *arguments)
        return self._drawn[key]

    def sprite(self, name, rng, longest):
        number = int(np.abs(_SIZES - longest).argmin())
        picture = self._variant(sprite, name, number, _SIZES[number])
        return picture[:, ::-1] if rng.random() < 0.5 else picture

    def ground(self, name, rng, height, width):
        texture = self._variant(ground, name, int(rng.integers(self.textures)), self.side, self.side)
        y, x = rng.integers(self.side - height + 1), rng.integers(self.side - width + 1)
        texture = texture[y : y + height, x : x + width]
        light = np.float32(rng.uniform(0.9, 1.1))
        return np.clip((texture[:, ::-1] if rng.random() < 0.5 else texture) * light, 0, 255)


@functools.lru_cache(maxsize=2)
def _bank(seed, chapter):
    return Bank((seed, 1, chapter))


def draw_batch(seed, step, scenes, side=WINDOW, things=MOST_THINGS, ground_rate=0.2):
    """Draw the batch of one training step.

    Args:
        seed, step: decide the batch entirely.
        scenes: how many scenes.
        side: width and height of a scene, pixels.
        things: the most things in a scene.
        ground_rate: how often a caption names a ground.

    Returns:
        pictures: (B, side, side, 3) uint8.
        captions: list of B str, each naming a random part of what is in its scene.
        also_true: (B, B) bool, where the caption of the column is true of the scene of the row.
        present: (B, K) bool, what the scene's full caption names, of CLASSES.
    """
    rng, bank = np.random.default_rng((seed, 2, step)), _bank(seed, step // CHAPTER)
    pictures = np.empty((scenes, side, side, 3), np.uint8)
    present, says = np.zeros((2, scenes, len(CLASSES)), bool)
    captions = []
    for index in range(scenes):
        count = int(rng.integers(1, things + 1))
        pictures[index], _, shown, grounds = compose(rng, (side, side), count, bank.ground, bank.sprite)
        names = draw_names(shown, grounds, rng, ground_rate)
        captions.append(caption(names, rng))
        present[index, [CLASSES.index(name) for name in shown + grounds]] = True
        says[index, [CLASSES.index(name) for name in names]] = True
    return pictures, captions, (~present).astype(np.float32) @ says.T == 0, present


def draw_words(seed, step):
    """A caption for each of CLASSES alone, such as "a photo of the small cat"; a function of (seed, step)."""
    rng = np.random.default_rng((seed, 3, step))
    return [caption([name], rng) for name in CLASSES]
