"""The grounds of the demo's scenes: procedural textures, drawn from a random generator alone.

Each ground is a function of (rng, height, width) that gives an (H, W, 3) float32 array in [0, 255]; `ground` looks one
up by name and varies its light and tint. No picture is read.
"""

import numpy as np
from PIL import Image


def noise(rng, height, width, cell_h, cell_w):
    """Smooth noise of mean 0 and spread near 1, its features about cell_h x cell_w pixels large; (H, W) float32."""
    rows, columns = int(height / cell_h) + 3, int(width / cell_w) + 3
    coarse = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    fine = coarse.resize((int(columns * cell_w) + 1, int(rows * cell_h) + 1), Image.Resampling.BICUBIC)
    return np.asarray(fine)[:height, :width]


def _tint(value, dark, light):
    """Map an (H, W) value in about [-2, 2] to colours between `dark` and `light`, two RGB triples."""
    mix = np.clip(value * 0.25 + 0.5, 0, 1)[..., None]
    return np.float32(dark) * (1 - mix) + np.float32(light) * mix


def _grass(rng, h, w):
    blades = 1.3 * noise(rng, h, w, 7, 1.6) + 0.7 * noise(rng, h, w, 20, 20)
    return _tint(blades, (38, 92, 22), (140, 196, 66))


def _sand(rng, h, w):
    y = np.arange(h, dtype=np.float32)[:, None]
    ripple = np.sin(y / rng.uniform(2.5, 4) + 3 * noise(rng, h, w, 40, 40))
    return _tint(0.7 * ripple + 0.8 * noise(rng, h, w, 1.2, 1.2), (196, 158, 98), (240, 216, 160))


def _water(rng, h, w):
    y = np.arange(h, dtype=np.float32)[:, None]
    wave = np.sin(y / rng.uniform(1.6, 2.6) + 2.5 * noise(rng, h, w, 9, 16))
    picture = _tint(wave + 0.6 * noise(rng, h, w, 30, 60), (10, 66, 130), (58, 146, 200))
    colour = np.array((190, 226, 240), np.float32)
    return np.where((wave + 0.5 * noise(rng, h, w, 4, 9) > 1.35)[..., None], colour, picture)


def _snow(rng, h, w):
    drift = noise(rng, h, w, 22, 34)
    picture = _tint(1.4 * drift + 0.3 * noise(rng, h, w, 1.5, 1.5), (206, 220, 238), (253, 254, 255))
    return np.where((rng.random((h, w)) > 0.985)[..., None], np.array((176, 196, 226), np.float32), picture)


def _bricks(rng, h, w):
    brick_h, brick_w = rng.integers(8, 12), rng.integers(18, 26)
    y, x = np.mgrid[:h, :w] + rng.integers(0, 40, (2, 1, 1))
    row = y // brick_h
    shifted = x + (row % 2) * (brick_w // 2)
    shade = rng.normal(0, 0.8, (row.max() + 1, shifted.max() // brick_w + 1)).astype(np.float32)
    value = shade[row, shifted // brick_w] + 0.5 * noise(rng, h, w, 1.5, 1.5)
    mortar = (y % brick_h < 2) | (shifted % brick_w < 2)
    colour = np.array((198, 190, 178), np.float32)
    return np.where(mortar[..., None], colour, _tint(value, (122, 44, 30), (192, 92, 66)))


def _wood(rng, h, w):
    plank = rng.integers(14, 24)
    y = np.arange(h)[:, None] + rng.integers(0, 40)
    shade = rng.normal(0, 0.8, (h + 40) // plank + 1).astype(np.float32)[y // plank]
    grain = np.sin(4 * noise(rng, h, w, 5, 60)) + 0.5 * noise(rng, h, w, 1.3, 12)
    picture = _tint(0.7 * grain + shade, (112, 66, 30), (190, 134, 78))
    return np.where((y % plank < 1)[..., None] & np.ones((1, w, 1), bool), np.array((62, 34, 16), np.float32), picture)


def _road(rng, h, w):
    picture = _tint(0.9 * noise(rng, h, w, 1.2, 1.2) + 0.5 * noise(rng, h, w, 18, 18), (58, 58, 62), (116, 116, 120))
    x = np.arange(w)[None, :]
    for line in range(int(rng.integers(0, 60)), h, int(rng.integers(56, 90))):
        dash = ((x + rng.integers(0, 30)) % 34 < 20) & (abs(np.arange(h)[:, None] - line) < 2)
        picture = np.where(dash[..., None], np.array((226, 222, 200), np.float32), picture)
    return picture


def _sky(rng, h, w):
    height = np.linspace(-1.6, 1.2, h, dtype=np.float32)[:, None] + np.zeros((1, w), np.float32)
    cloud = np.clip(noise(rng, h, w, 16, 34) + 0.5 * noise(rng, h, w, 6, 10) - 0.5, 0, 1)[..., None]
    return _tint(height, (84, 156, 226), (184, 220, 246)) * (1 - cloud) + 250 * cloud


_GROUNDS = {
    "grass": _grass, "sand": _sand, "water": _water, "snow": _snow,
    "bricks": _bricks, "wood": _wood, "road": _road, "sky": _sky,
}  # fmt: skip


def ground(name, rng, height, width):
    """Draw one ground.

    Args:
        name: one of "grass", "sand", "water", "snow", "bricks", "wood", "road", "sky".
        rng: numpy Generator that decides everything about the texture.
        height, width: size in pixels.

    Returns:
        (H, W, 3) float32 array in [0, 255].
    """
    picture = _GROUNDS[name](rng, height, width).astype(np.float32)
    light, tint = rng.uniform(0.82, 1.12), rng.uniform(0.94, 1.06, 3).astype(np.float32)
    return np.clip(picture * (light * tint), 0, 255).astype(np.float32)
