"""Areas under the ROC curve on data in MVTec AD's layout: of pictures, and of pixels.

    DIR/CATEGORY/test/good/000.png
    DIR/CATEGORY/test/DEFECT/000.png, DIR/CATEGORY/ground_truth/DEFECT/000_mask.png

DIR may be one category's folder. What a category shows is its name: "metal_nut" is a metal nut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PictureNotFoundError
from ..imaging.opening import opened, upright
from ..imaging.pictures import read_picture
from ..importing import needs
from .detector import AnomalyDetector

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """A picture, and where its defects are: a file, None for a picture that has none."""

    picture: Path
    mask: Path | None


@dataclass(frozen=True)
class CategoryResult:
    """Of a category the areas under the ROC curves, from 0 to 1; NaN where it shows one kind alone.

    Attributes:
        category: its name.
        pictures, abnormal: how many were looked at, and how many of those have defects.
        image_auroc, pixel_auroc: of the pictures' scores, and of all pixels' heat, at the size that the model saw.
    """

    category: str
    pictures: int
    abnormal: int
    image_auroc: float
    pixel_auroc: float


def categories(root: Path) -> dict[str, list[Sample]]:
    """All categories below a folder, or the one that it is.

    Raises:
        PictureNotFoundError: no category, or a picture with a defect that has no mask.
    """
    folders = [root] if (root / "test").is_dir() else sorted(p.parent for p in root.glob("*/test") if p.is_dir())
    if not folders:
        raise PictureNotFoundError(
            f"{root} holds nothing in MVTec AD's layout; expected CATEGORY/test/good/*.png, CATEGORY/test/DEFECT/*.png "
            "and CATEGORY/ground_truth/DEFECT/*_mask.png."
        )
    return {folder.resolve().name: list(_samples(folder)) for folder in folders}


def _samples(folder: Path) -> Iterator[Sample]:
    for picture in sorted((folder / "test").glob("*/*")):
        if picture.suffix.lower() not in SUFFIXES:
            continue
        defect, mask = picture.parent.name, None
        if defect != "good":
            masks = folder / "ground_truth" / defect
            mask = masks / f"{picture.stem}_mask.png"
            if not mask.is_file():
                raise PictureNotFoundError(f"{picture} has no mask; expected {mask}.")
        yield Sample(picture, mask)


def evaluate_category(
    detector: AnomalyDetector, category: str, samples: list[Sample], seen: Callable[[], object] = lambda: None
) -> CategoryResult:
    """What a detector makes of a category; ``seen`` is called after each picture.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    metrics = needs("sklearn.metrics", "sklearn")
    scores, heats, masks = [], [], []
    for sample in samples:
        size = (detector.size, detector.size)
        maps, of_picture = detector.maps(detector.pixels(read_picture(sample.picture)))
        heats.append(maps[0].cpu().numpy().ravel())
        scores.append(float(of_picture[0]))
        masks.append(np.zeros(size, bool) if sample.mask is None else _read_mask(sample.mask, size))
        seen()
    kinds = [sample.mask is not None for sample in samples]
    pixels = np.concatenate([mask.ravel() for mask in masks])

    def area(truth: list[bool] | np.ndarray, values: list[float] | np.ndarray) -> float:
        return float(metrics.roc_auc_score(truth, values)) if len(set(np.unique(truth))) == 2 else float("nan")

    return CategoryResult(category, len(samples), sum(kinds), area(kinds, scores), area(pixels, np.concatenate(heats)))


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    with opened(path) as mask:
        return np.asarray(upright(mask).convert("L").resize(size[::-1], Image.Resampling.NEAREST)) > 0
