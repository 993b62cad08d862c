"""The blocks of README.md and of docs/, and a folder in which they run as they stand.

What a block names lies in that folder under the same name. So ``facebook/dino-vitb8`` is a folder there, with the tiny
random DINO of tests/golden in it, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import golden
import numpy as np
import sam3_golden
import torch
import transformers
from evaluation.layouts import write_dataset
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.protocols import load_benchmark
from sclip_plugin.video.writing import write_video

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}

# What stands in for weights that can't be had here: the demo's CLIP, or a checkpoint of tests/golden.
STAND_INS = {
    "openai/clip-vit-base-patch16": "demo",
    "openai/clip-vit-large-patch14-336": "tiny_clip_openai",
    "M": "demo",
    "facebook/dino-vitb8": "dino8",
    "facebook/dino-vitb16": "dino16",
    "facebook/dinov2-base": "dinov2",
    "facebook/sam-vit-base": "sam",
    "facebook/sam3": "sam3",
}
# What would take a minute otherwise: SAM asked at 4 points in the place of 1,024, LPOSS on fewer patches.
FEW_MASKS = "sam(model='facebook/sam-vit-base', points=2, pred_iou_thresh=0, stability_score_thresh=0)"
QUICKER = {
    "sam:facebook/sam-vit-base": FEW_MASKS,
    "resize_short_side=448": "resize_short_side=144",
}
PICTURES = ("photo.jpg", "other.jpg", "nut.png", "nuts/0.png", "photos/0.jpg", "photos/1.jpg")
PICTURES += ("cat.png", "coffee.png", "eva.png", "rocket.png", "scene.png")
PICTURES += ("photos/2.jpg", "photos/3.jpg", "photos/4.jpg")
VOC = ("VOCdevkit/VOC2012", "data/VOCdevkit/VOC2012", "DIR")


def blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of a page in a language, in reading order."""
    text = PAGES[page].read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def fences(page: str) -> set[str]:
    """The lines that open a page's fenced blocks, as they stand."""
    text = PAGES[page].read_text(encoding="utf-8")
    return set(re.findall(r"^( *[`~]{3,}.*)\n(?:.*\n)*?^ *[`~]{3,}$", text, flags=re.MULTILINE))


def commands(page: str) -> list[str]:
    """The lines for a shell: of ```bash blocks and of blocks that are indented by four, each in one piece."""
    lines, language = [], ""
    for line in PAGES[page].read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            language = "" if language else line[3:] or "none"
        elif language == "bash" or (not language and line.startswith("    ")):
            lines.append(line.strip())
    whole = "\n".join(lines).replace("\\\n", " ")
    return [part.strip() for line in whole.splitlines() for part in line.split(" && ") if part.strip()]


def replaced(text: str, table: dict[str, str]) -> str:
    for shown, run in table.items():
        text = text.replace(shown, run)
    return text


def run_blocks(page: str, names: dict | None = None) -> dict:
    """Run a page's Python blocks one after the other, as a reader types them; returns the names they leave."""
    names = {} if names is None else names
    for block in blocks(page):
        exec(compile(replaced(block, QUICKER), str(PAGES[page]), "exec"), names)
    return names


def furnish(folder: Path) -> None:
    """Make the stand-ins, pictures and data sets that the blocks name."""
    for name, model in STAND_INS.items():
        _save(folder / name, model)
    prefix, arrays = "prompt_learner.", golden.arrays("AnomalyCLIP")
    prompts = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    torch.save({"prompt_learner": prompts}, folder / "epoch_15.pth")
    for seed, name in enumerate(PICTURES):
        (folder / name).parent.mkdir(exist_ok=True)
        sp.draw_scene(seed).picture.resize((96, 72)).save(folder / name)
    (folder / "pets.yaml").write_text(blocks("evaluation", "yaml")[0].replace("split:", "# split:"))
    write_dataset(load_benchmark(folder / "pets.yaml"), folder / "data/pets", 2)
    _mask(folder / "data/cityscapes/gtFine/val/ulm/ulm_0_gtFine_labelIds.png", 7)
    _mask(folder / "data/coco_stuff164k/annotations/val2017/1.png", 16)
    _geotiff(folder / "scene.tif")
    with write_video(folder / "film.mp4", fps=2) as film:
        for seed in range(2):
            film.add(sp.draw_scene(seed).picture.resize((96, 72)))
    for place in VOC:
        write_dataset(load_benchmark("voc21"), folder / place, 2)
    _mvtec(folder / "mvtec/metal_nut")
    for seed in range(3):
        scene = sp.draw_scene(seed)
        labels = ["cat", *(f"other {label}" for label in scene.labels[1:])]
        sp.Segmentation(labels, scene.label_map, scene.picture).export(folder / "examples", "labelme", name=str(seed))


def _save(folder: Path, model: str) -> None:
    folder.parent.mkdir(exist_ok=True)
    if model == "sam3":
        if hasattr(transformers, "Sam3Model"):
            sam3_golden.saved(folder)
        return
    if model == "demo":
        folder.symlink_to(sp.demo_model())
    elif model == "tiny_clip_openai":
        golden.save_folder(folder)
    else:
        transformers_model(model).save_pretrained(folder)
    if model == "sam":
        from transformers import SamImageProcessor, SamProcessor

        SamProcessor(SamImageProcessor()).save_pretrained(folder)


def _mvtec(category: Path) -> None:
    for kind in ("good", "scratch"):
        (category / "test" / kind).mkdir(parents=True)
        sp.draw_scene(0).picture.save(category / "test" / kind / "000.png")
    _mask(category / "ground_truth/scratch/000_mask.png", 255)


def _mask(path: Path, label: int) -> None:
    """Of a drawn scene's size: a square of the label."""
    mask = np.zeros((144, 192), np.uint8)
    mask[20:50, 30:70] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def _geotiff(path: Path) -> None:
    import rasterio

    pixels = np.asarray(sp.draw_scene(0).picture)
    size = {"height": pixels.shape[0], "width": pixels.shape[1]}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", **size, **options) as file:
        file.write(pixels.transpose(2, 0, 1))


@contextlib.contextmanager
def nothing_stays():
    """Afterwards no stand-in is taken for the model of its name, and nothing that a block registered is known."""
    from sclip_plugin.export.registry import FORMATS
    from sclip_plugin.guides.registry import _LOADED
    from sclip_plugin.masks.models import _generator
    from sclip_plugin.methods import METHODS
    from sclip_plugin.steps.registry import STEPS

    yield
    for registry in (METHODS, STEPS, FORMATS):
        for name in [name for name, cls in registry._classes.items() if cls.__module__ == "builtins"]:  # by `exec`
            del registry._classes[name]
    _LOADED.clear()
    _generator.cache_clear()
