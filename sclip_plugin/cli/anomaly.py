"""``sclip anomaly``: heat maps and scores of what is not as it should be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import DEFAULT_MODEL
from .options import Device, Dtype, Model, quiet_transformers
from .pictures import MaxPixels, find_pictures, limit_pixels, with_stems
from .terminal import AsJson, say, tell


def anomaly(
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns like '*.jpg', or URLs; '-' for standard input.")
    ],
    thing: Annotated[str, typer.Option("--object", help="The object in the pictures, such as 'metal nut'.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="AnomalyCLIP's learned prompts (a .pth file), in place of words.", exists=True, dir_okay=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    model: Model = DEFAULT_MODEL,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the square that pictures are resized to, in pixels.")
    ] = None,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Find defects in pictures, without examples.

    Writes for each picture NAME.anomaly.png, the heat over the picture, and NAME.anomaly.json, its score from 0,
    normal, to 1 and where it is hottest. What was found is printed, a line a picture.

    Exit code: 0 if all pictures were processed, 1 if some failed, 2 if nothing could start.

    Example: sclip anomaly nuts/ --object "metal nut" --model openai/clip-vit-large-patch14-336
    """
    import numpy as np

    from ..anomaly import AnomalyDetector
    from ..errors import PictureError
    from ..imaging.marks import check_replaceable, marked
    from ..storage.files import check_writable, save_image, save_json

    if prompts is None and not thing.strip():
        raise typer.BadParameter("Missing option '--object': what the pictures show, such as 'nut'; or give --prompts.")
    limit_pixels(max_pixels)
    found = find_pictures(pictures, out)
    for _, stem in with_stems(found.pictures):
        check_replaceable(out / f"{stem}.anomaly.png")
    check_writable(out)
    quiet_transformers()
    detector = AnomalyDetector.from_pretrained(
        model, device=device, dtype=dtype, thing=thing, prompts=prompts, size=size
    )
    failed = 0
    for picture, stem in with_stems(found.pictures):
        try:
            with picture.open() as file:
                result = detector(file)
        except PictureError as error:
            tell(f"{picture.given}: {error}")
            failed += 1
            continue
        row, column = (int(i) for i in np.unravel_index(result.heat.argmax(), result.heat.shape))
        said = {
            "picture": picture.given, "score": result.score, "hottest": [column, row],
            "heat": float(result.heat.max() / result.layers), "object": thing or None,
            "prompts": str(prompts) if prompts else None, "model": model,
        }  # fmt: skip
        target = out / f"{stem}.anomaly.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(result.heatmap(), target, **marked("PNG"))
        save_json(said, out / f"{stem}.anomaly.json")
        say(json.dumps(said) if as_json else f"{result.score:.3f}  {picture.given} -> {target}")
    raise typer.Exit(1 if failed else 0)


def evaluate_anomalies(
    data: Path | None,
    model: str | None,
    changes: dict[str, Any],
    out: Path,
    limit: int | None,
    device: str | None,
    dtype: str,
) -> None:
    """``sclip eval mvtec``: a row a category, and the mean over categories."""
    from ..anomaly import AnomalyDetector
    from ..anomaly.mvtec import categories, evaluate_category
    from ..errors import UnknownNameError
    from ..loading import load_model
    from ..storage.files import check_writable, save_json

    if data is None:
        raise typer.BadParameter("'mvtec' needs --data, the folder of the data set.")
    unknown = sorted(set(changes) - {"prompts", "size"})
    if unknown:
        raise UnknownNameError(f"--set {unknown[0]}: 'sclip eval mvtec' has prompts and size to set.")
    found = categories(data)
    check_writable(out)
    quiet_transformers()
    loaded = load_model(model or DEFAULT_MODEL, device=device, dtype=dtype)
    rows = []
    for category, samples in found.items():
        detector = AnomalyDetector(
            loaded.model, loaded.tokenizer, thing=category.replace("_", " "), **loaded.statistics(), **changes,
        )  # fmt: skip
        rows.append(evaluate_category(detector, category, samples[:limit]))
        row = rows[-1]
        say(
            f"{category}: image AUROC {100 * row.image_auroc:.1f}, pixel AUROC {100 * row.pixel_auroc:.1f}, "
            f"{row.pictures} pictures, {row.abnormal} with defects"
        )
    means = {name: sum(getattr(row, name) for row in rows) / len(rows) for name in ("image_auroc", "pixel_auroc")}
    say(f"mean of {len(rows)}: image AUROC {100 * means['image_auroc']:.1f}, pixel {100 * means['pixel_auroc']:.1f}")
    said = {"model": model or DEFAULT_MODEL, **changes, "categories": [dataclasses.asdict(row) for row in rows]}
    save_json({**said, "mean": means}, out / "mvtec.json")
