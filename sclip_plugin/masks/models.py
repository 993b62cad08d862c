"""Masks by models of transformers: SAM and its kin everywhere in the picture, SAM 3 by words, panoptic models."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import MissingPackageError, ModelLoadError, SettingError
from ..fields import field_of
from ..importing import needs
from .base import MaskSource
from .registry import register_mask_source


@register_mask_source("sam")
@dataclass(frozen=True, kw_only=True)
class AutomaticMasks(MaskSource):
    """SAM, SAM 2, EdgeTAM, …: automatic masks from a grid of points, by transformers' mask-generation.

    Fields:
        model: a hub id or folder.
        points: points on a side of the grid.
        pred_iou_thresh, stability_score_thresh: masks of which the model is less sure are left out.

    Source: Segment Anything, arXiv 2304.02643; CorrCLIP takes SAM 2's with 8 or 32 points and both thresholds 0.4.
    """

    summary = "automatic masks of SAM, SAM 2, EdgeTAM (transformers): sam:NAME"
    model: str = field_of("facebook/sam-vit-base", "a hub id or folder of transformers", holds="model")
    points: int = field_of(32, "points on a side of the grid", low=1, high=256)
    pred_iou_thresh: float = field_of(0.88, "masks with a lower predicted IoU are left out", low=0, high=1)
    stability_score_thresh: float = field_of(0.95, "masks that are less stable are left out", low=0, high=1)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        found = _generator(self.model)(
            picture,
            points_per_crop=self.points,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
        )
        masks = [np.asarray(mask, dtype=bool) for mask in found["masks"]]
        return np.stack(masks) if masks else np.zeros((0, picture.height, picture.width), bool)


@register_mask_source("mobile_sam")
@dataclass(frozen=True, kw_only=True)
class MobileSamMasks(MaskSource):
    """MobileSAM: automatic masks from a grid of points, by its authors' code.

    Fields:
        weights: the checkpoint, ``mobile_sam.pt``.
        points, pred_iou_thresh, stability_score_thresh: as of ``sam``.

    Source: MobileSAM, arXiv 2306.14289; its code is the package mobilesam-mirror.
    """

    summary = "automatic masks of MobileSAM (pip install mobilesam-mirror): mobile_sam:WEIGHTS"
    weights: str = field_of("mobile_sam.pt", "the checkpoint", holds="model")
    points: int = field_of(32, "points on a side of the grid", low=1, high=256)
    pred_iou_thresh: float = field_of(0.88, "masks with a lower predicted IoU are left out", low=0, high=1)
    stability_score_thresh: float = field_of(0.95, "masks that are less stable are left out", low=0, high=1)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        generator = needs("mobile_sam").SamAutomaticMaskGenerator(
            _mobile_sam(self.weights),
            points_per_side=self.points,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
        )
        masks = [found["segmentation"] for found in generator.generate(np.asarray(picture))]
        return np.stack(masks) if masks else np.zeros((0, picture.height, picture.width), bool)


@register_mask_source("panoptic")
@dataclass(frozen=True, kw_only=True)
class PanopticMasks(MaskSource):
    """Mask2Former, MaskFormer, OneFormer-like and EoMT models: the segments of their panoptic map.

    Fields:
        model: a hub id or folder.

    Source: CorrCLIP, arXiv 2411.10086, takes Mask2Former's and EoMT's with transformers' defaults.
    """

    summary = "segments of a panoptic model, such as Mask2Former (transformers): panoptic:NAME"
    model: str = field_of(
        "facebook/mask2former-swin-large-coco-panoptic", "a hub id or folder of transformers", holds="model"
    )

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> np.ndarray:
        processor, model = _panoptic(self.model)
        inputs = processor(images=picture, return_tensors="pt").to(model.device)
        size = (picture.height, picture.width)
        found = processor.post_process_panoptic_segmentation(model(**inputs), target_sizes=[size])[0]
        given = found["segmentation"].cpu().numpy()
        ids = np.zeros(size, np.int32)
        for place, segment in enumerate(found["segments_info"], start=1):  # EoMT's ids start at 0, others' at 1
            ids[given == segment["id"]] = place
        return ids


@register_mask_source("sam3")
@dataclass(frozen=True, kw_only=True)
class Sam3Masks(MaskSource):
    """SAM 3's instances of a list of words, one pass of its detector a word: ``sam3:NAME('cat, sofa')``.

    Fields:
        words: names between commas.
        model: a hub id or folder.
        conf: instances with a lower or equal score are left out.

    Source: transformers' post-processing of SAM 3's instances.
    """

    summary = "SAM 3's instances of words (transformers): sam3:NAME('cat, sofa')"
    words: str = field_of("", "names between commas, such as 'cat, sofa'")
    model: str = field_of("facebook/sam3", "a hub id or folder of transformers", holds="model")
    conf: float = field_of(0.3, "instances with a lower or equal score are left out", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._names():
            raise SettingError("sam3 masks need words; expected names between commas: \"sam3:NAME('cat, sofa')\".")

    def _names(self) -> list[str]:
        return [name.strip() for name in self.words.split(",") if name.strip()]

    @torch.inference_mode()
    def __call__(self, picture: Image.Image) -> np.ndarray:
        processor, model = _sam3(self.model)
        size = (picture.height, picture.width)
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].to(model.device)
        seen, masks = model.get_vision_features(pixels), [np.zeros((0, *size), bool)]
        for name in self._names():
            text = processor.tokenizer(
                name, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
            ).to(model.device)
            out = model(vision_embeds=seen, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
            found = processor.post_process_instance_segmentation(out, threshold=self.conf, target_sizes=[size])[0]
            if len(found["masks"]):  # without one they have the detector's size
                masks.append(found["masks"].bool().cpu().numpy())
        together = np.concatenate(masks)
        return together[together.any(axis=(1, 2))]


@functools.lru_cache(maxsize=2)
def _generator(name: str) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _loaded(name, lambda t, source: t.pipeline("mask-generation", model=source, device=device))


@functools.lru_cache(maxsize=2)
def _mobile_sam(weights: str) -> Any:
    module = needs("mobile_sam")
    try:
        model = module.sam_model_registry["vit_t"]()
        model.load_state_dict(torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a file that is none, or of another model, makes of its reader
        raise ModelLoadError(
            f"MobileSAM's weights '{weights}' could not be read; expected its mobile_sam.pt: {str(error)[:300]}"
        ) from error
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


@functools.lru_cache(maxsize=2)
def _sam3(name: str) -> tuple[Any, Any]:
    def load(transformers: Any, source: str) -> tuple[Any, Any]:
        model = transformers.Sam3Model.from_pretrained(source, trust_remote_code=False).eval()
        processor = transformers.Sam3Processor.from_pretrained(source, trust_remote_code=False)
        return processor, model.to("cuda" if torch.cuda.is_available() else "cpu")

    return _loaded(name, load)


@functools.lru_cache(maxsize=2)
def _panoptic(name: str) -> tuple[Any, Any]:
    def load(transformers: Any, source: str) -> tuple[Any, Any]:
        options = {"trust_remote_code": False}
        processor = transformers.AutoImageProcessor.from_pretrained(source, **options)
        model = transformers.AutoModelForUniversalSegmentation.from_pretrained(source, **options).eval()
        return processor, model.to("cuda" if torch.cuda.is_available() else "cpu")

    return _loaded(name, load)


def _loaded(name: str, load: Any) -> Any:
    folder = Path(name).expanduser()
    try:
        return load(needs("transformers", "transformers"), str(folder) if folder.is_dir() else name)
    except MissingPackageError:
        raise
    except Exception as error:  # whatever the hub's client, a parser or a broken file raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(
            f"the mask model '{name}' could not be fetched or read. A local folder works (as save_pretrained writes "
            f"it). The reason given: {reason[:300]}"
        ) from error
