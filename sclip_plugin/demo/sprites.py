"""The things of the demo's scenes: one small picture each, in one sheet (`assets/sprites.png`, Google's Noto emoji).

`python -m sclip_plugin.demo.sprites FOLDER` makes the sheet anew from an unpacked npm package emoji-datasource-google.
"""

import argparse
import functools
import json
import pathlib

import numpy as np
from PIL import Image

ASSETS = pathlib.Path(__file__).parent / "assets"
SHEET, CELL, COLUMNS = ASSETS / "sprites.png", 64, 7

_TABLE = json.loads((ASSETS / "classes.json").read_text(encoding="utf-8"))
THINGS = tuple(_TABLE["things"])
GROUNDS = tuple(_TABLE["grounds"])
CLASSES = THINGS + GROUNDS
SYNONYMS = {name: tuple(entry["also"]) for kind in _TABLE.values() for name, entry in kind.items()}


@functools.cache
def _sheet():
    """Every thing's picture, trimmed to what is opaque, with premultiplied colours; dict name -> PIL "RGBa"."""
    sheet, pictures = Image.open(SHEET).convert("RGBA"), {}
    for index, name in enumerate(THINGS):
        x, y = index % COLUMNS * CELL, index // COLUMNS * CELL
        cell = sheet.crop((x, y, x + CELL, y + CELL))
        pictures[name] = cell.crop(cell.getbbox()).convert("RGBa")
    return pictures


def sprite(name, rng, longest):
    """Draw one thing at random rotation, mirroring and colour.

    Args:
        name: one of THINGS.
        rng: numpy Generator that decides the variation.
        longest: the longer side in pixels, before rotation.

    Returns:
        (h, w, 4) float32: colour in [0, 255] premultiplied by opacity, and opacity in [0, 1].
    """
    picture = _sheet()[name]
    scale = longest / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Colours are premultiplied, so that each band can be rotated alone: Pillow does not rotate "RGBa" at once.
    angle = float(np.clip(rng.normal(0, 13), -35, 35))
    bands = [band.rotate(angle, Image.Resampling.BICUBIC, expand=True) for band in picture.split()]
    pixels = np.stack([np.asarray(band) for band in bands], -1).astype(np.float32)
    opacity = pixels[..., 3:] / 255
    light, tint = rng.uniform(0.85, 1.12), rng.uniform(0.92, 1.08, 3).astype(np.float32)
    return np.concatenate([np.clip(pixels[..., :3] * (light * tint), 0, 255 * opacity), opacity], -1)


def build_sheet(package):
    """Paste the chosen pictures of an unpacked emoji-datasource-google into one sheet; returns a PIL "RGBA" picture."""
    rows = -(-len(THINGS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, name in enumerate(THINGS):
        path = pathlib.Path(package) / "img/google/64" / f"{_TABLE['things'][name]['emoji']}.png"
        sheet.paste(Image.open(path).convert("RGBA"), (index % COLUMNS * CELL, index // COLUMNS * CELL))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="unpacked npm package emoji-datasource-google")
    build_sheet(parser.parse_args().package).save(SHEET, optimize=True)
