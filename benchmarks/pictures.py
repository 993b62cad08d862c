"""The pictures of README and docs, made anew: python benchmarks/pictures.py [--photographs]

The photographs are those that scikit-image ships: python -m pip install scikit-image
"""

import sys
from pathlib import Path

import sclip_plugin as sp
from sclip_plugin.defaults import PAMR_STEPS
from sclip_plugin.draw.overlay import legend_of, overlay
from sclip_plugin.draw.sheet import side_by_side
from sclip_plugin.files import save_image

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def demo() -> None:
    """The first scene as `sclip demo` segments it, refined, and the truth."""
    scene = sp.draw_scene(seed=0, scale=2)
    labels = list(scene.labels)
    encoded = sp.Segmenter.from_pretrained("demo").encode(scene.picture)
    panels = [
        ("the scene", scene.picture),
        ("csa", encoded.segment(labels).overlay(legend=False)),
        ("csa, refined", encoded.segment(labels, pamr_steps=PAMR_STEPS).overlay(legend=False)),
        ("truth", overlay(scene.picture, scene.label_map, scene.labels, legend=False)),
    ]
    legend = legend_of([scene.label_map], labels)
    save_image(side_by_side(panels, legend=legend), IMAGES / "demo.png")


def photographs() -> None:
    """Real ones for docs/photographs.md, free to use: scikit-image has them from NASA and under CC0."""
    from PIL import Image
    from skimage import data

    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        picture = Image.fromarray(getattr(data, name)())
        picture.thumbnail((480, 360))
        picture.save(IMAGES / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    photographs() if "--photographs" in sys.argv else demo()
