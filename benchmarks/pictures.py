"""The pictures of README and docs, made anew: python benchmarks/pictures.py [--photographs] [--page]

The page takes the extra `app`, playwright, and Chromium from the machine's packages.
The photographs are those that scikit-image ships: python -m pip install scikit-image
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import sclip_plugin as sp
from sclip_plugin.draw.overlay import legend_of, overlay
from sclip_plugin.draw.sheet import side_by_side
from sclip_plugin.storage.files import save_image

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def demo() -> None:
    """The first scene as `sclip demo` segments it, refined, and the truth."""
    scene = sp.draw_scene(seed=0, scale=2)
    labels = list(scene.labels)
    encoded = sp.Segmenter.from_pretrained("demo", presence=None).encode(scene.picture)
    panels = [
        ("the scene", scene.picture),
        ("csa", encoded.segment(labels).overlay(legend=False)),
        ("csa, refined", encoded.segment(labels, refine=True).overlay(legend=False)),
        ("truth", overlay(scene.picture, scene.label_map, scene.labels, legend=False)),
    ]
    legend = legend_of([scene.label_map], labels)
    save_image(side_by_side(panels, legend=legend), IMAGES / "demo.png")


def styles() -> None:
    """Ways to draw one result, for docs/results.md."""
    scene = sp.draw_scene(seed=0, scale=2)
    encoded = sp.Segmenter.from_pretrained("demo", presence=None).encode(scene.picture)
    result = encoded.segment(list(scene.labels), refine=True)
    cleaned = result.cleaned(300)
    panels = [
        ("as it is", result.overlay(legend=False)),
        ("regions of 300 pixels at least", cleaned.overlay(legend=False)),
        ("their outlines", cleaned.overlay(style="outline", legend=False)),
        ('unrefined, a heat map, stretched: "crab"', encoded.segment(list(scene.labels)).heatmap("crab", stretch=True)),
    ]
    save_image(side_by_side(panels, legend=legend_of([cleaned.label_map], cleaned.labels)), IMAGES / "styles.png")


def choosing() -> None:
    """What goes wrong and what helps, for docs/choosing.md: words for what is around, and the size looked at."""
    scene = sp.draw_scene(seed=0, scale=2)
    segmenter = sp.Segmenter.from_pretrained("demo", presence=None)
    few, legend = ["crab", "sheep", "train"], legend_of([scene.label_map], scene.labels)

    def panel(caption: str, labels: list[str], **changes: Any) -> tuple[str, Image.Image]:
        return caption, segmenter(scene.picture, labels, **changes).overlay(legend=False)

    words = [
        panel("crab, sheep, train", few),
        panel("the same, --background", few, background=True),
        panel("the same, and sky", [*few, "sky"]),
        panel("all that is there", list(scene.labels)),
    ]
    save_image(side_by_side(words, legend=legend), IMAGES / "words.png")
    sizes = [panel(f"--resize {size}", list(scene.labels), resize_short_side=size) for size in (96, 144, 576)]
    sizes.append(panel("--resize 144 --refine", list(scene.labels), refine=True))
    save_image(side_by_side(sizes, legend=legend), IMAGES / "sizes.png")


def page() -> None:
    """`sclip app` in Chromium: the first scene, two methods side by side, a region selected."""
    import shutil
    import subprocess

    from playwright.sync_api import sync_playwright

    server = subprocess.Popen([sys.executable, "-m", "sclip_plugin", "app", "-m", "demo", "--port", "7869"])
    try:
        with sync_playwright() as started:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 820})
            for _ in range(60):
                try:
                    page.goto("http://127.0.0.1:7869")
                    break
                except Exception:  # not there yet
                    page.wait_for_timeout(1000)
            page.click("#draw")
            page.wait_for_selector("#first img")
            page.click("text=Method and settings")
            page.click("#beside input")
            page.click("ul[role=listbox] >> text=naclip")
            page.wait_for_selector("#second img")
            page.wait_for_timeout(1500)  # until pictures have their places
            box = page.locator("#first img").bounding_box()
            assert box is not None
            page.locator("#first img").click(position={"x": 0.25 * box["width"], "y": 0.45 * box["height"]})
            page.wait_for_function("document.querySelector('#place').innerText.includes('selected')")
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(1500)
            page.screenshot(path=IMAGES / "app.png")
    finally:
        server.terminate()
        server.wait()


def found() -> None:
    """What a search of the first 60 scenes finds, for docs/collections.md."""
    from sclip_plugin.index.sheet import contact_sheet

    segmenter = sp.Segmenter.from_pretrained("demo", presence=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scenes"
        folder.mkdir()
        for seed in range(60):
            sp.draw_scene(seed, scale=2).picture.save(folder / f"{seed:02}.png")
        hits = sp.Index.build(segmenter, folder, Path(name) / "index").search("butterfly", top=6)
        save_image(contact_sheet(hits, "butterfly"), IMAGES / "found.jpg", quality=85)


def photographs() -> None:
    """Real ones for docs/photographs.md, free to use: scikit-image has them from NASA and under CC0."""
    from skimage import data

    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        picture = Image.fromarray(getattr(data, name)())
        picture.thumbnail((480, 360))
        picture.save(IMAGES / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    if "--photographs" in sys.argv:
        photographs()
    elif "--page" in sys.argv:
        page()
    else:
        demo()
        styles()
        choosing()
        found()
