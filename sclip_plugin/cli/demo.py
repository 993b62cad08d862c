"""``sclip demo``: a drawn scene, segmented by the CLIP that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..defaults import DEFAULT_MODEL
from .options import make_segmenter
from .settings import setting
from .terminal import say

if TYPE_CHECKING:
    from ..demo import Scene
    from ..segment.segmentation import Segmentation
    from ..segment.segmenter import Segmenter


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("sclip-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Number of the scene; 0 is the first.")] = 0,
    method: Annotated[str, setting("method")] = "csa",
) -> None:
    """Draw a scene, segment it by its labels with the CLIP that ships with the package, and write the pictures.

    Needs no network. Training used neither this scene nor any mask.
    """
    import torch

    from ..demo import draw_scene
    from ..draw.overlay import overlay
    from ..storage.files import save_image

    scene = draw_scene(seed, scale=2)
    labels = list(scene.labels)
    segmenter = make_segmenter("demo", None, method=method, present=False)  # what was drawn is there
    # The tower looks once; both answers and all heat maps are questions to what it saw.
    look = segmenter.encode([scene.picture], dtype=torch.float32) if _words_come_later(segmenter) else None
    plain, refined = (
        look[0].segment(labels, refine=refine) if look else segmenter(scene.picture, labels, refine=refine)
        for refine in (False, True)
    )
    paths = refined.save(out, "scene", heatmaps=True)
    save_image(scene.picture, out / "scene.png")
    save_image(plain.overlay(), out / "scene.unrefined.png")
    save_image(overlay(scene.picture, scene.label_map, scene.labels), out / "scene.truth.png")
    say(f"A scene of: {', '.join(labels)}")
    say(
        f"mIoU with {method}: {_miou(plain, scene):.1f} %, refined along the picture's edges (--refine): "
        f"{_miou(refined, scene):.1f} % (the truth is known, since the scene was drawn)"
    )
    for name, path in (
        ("picture", out / "scene.png"),
        ("segmented", out / "scene.unrefined.png"),
        ("refined", paths["overlay"]),
        ("truth", out / "scene.truth.png"),
    ):
        say(f"{name:>10}: {path}")
    say("", f'Next, your own: sclip segment PICTURE --labels "cat, sofa" (fetches {DEFAULT_MODEL} once)')


def _words_come_later(segmenter: Segmenter) -> bool:
    """Whether a picture can be looked at before the words are known, as with all methods but resclip."""
    return not segmenter.settings.make_method().needs_text


def _miou(result: Segmentation, scene: Scene) -> float:
    from ..evaluation.metric import IoUTotals

    totals = IoUTotals(len(scene.labels))
    totals.add(result.label_map, scene.label_map)
    return 100 * totals.miou
