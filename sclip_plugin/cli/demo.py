"""``sclip demo``: a drawn scene, segmented by the CLIP that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import make_segmenter, setting
from .terminal import say


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("sclip-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Which scene is drawn; 0 is the first.")] = 0,
    method: Annotated[str, setting("method")] = "csa",
) -> None:
    """Draw a scene, segment it by its labels with the CLIP that ships with the package, and write the pictures.

    Needs no network. The scene was not seen in training, and no mask ever was.
    """
    from ..demo import draw_scene
    from ..draw.overlay import overlay
    from ..evaluation.metric import IoUTotals
    from ..files import save_image

    scene = draw_scene(seed)
    segmenter = make_segmenter("demo", None, method=method)
    result = segmenter(scene.picture, list(scene.labels))
    paths = result.save(out, "scene", heatmaps=True)
    save_image(scene.picture, out / "scene.png")
    save_image(overlay(scene.picture, scene.label_map, scene.labels), out / "scene.truth.png")
    totals = IoUTotals(len(scene.labels))
    totals.add(result.label_map, scene.label_map)
    say(f"A scene of: {', '.join(scene.labels)}")
    say(f"mIoU with {method}: {100 * totals.miou:.1f} % (the truth is known, since the scene was drawn)")
    for name, path in (
        ("picture", out / "scene.png"),
        ("segmented", paths["overlay"]),
        ("truth", out / "scene.truth.png"),
    ):
        say(f"{name:>10}: {path}")
    say(f'\nNext, your own: sclip segment PICTURE --labels "cat, sofa" (fetches {DEFAULT_MODEL} once)')
