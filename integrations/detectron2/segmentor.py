"""The meta-architecture: a `sclip_plugin.Segmenter` with the inputs and outputs of Detectron2's SemanticSegmentor."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from sclip_plugin.draw.colours import colours_of
from sclip_plugin.errors import LabelError, PictureError, SettingError
from sclip_plugin.segment.encoded import Encoded
from sclip_plugin.segment.encoding import Prepared
from sclip_plugin.segment.segmentation import Segmentation
from sclip_plugin.segment.segmenter import Segmenter
from sclip_plugin.text.labels import Labels, Vocabulary, parse_labels

from .config import classes_of, settings_of

FORMATS = ("RGB", "BGR", "L")

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class SCLIPSegmentor(nn.Module):
    """Semantic segmentation into any classes named in words, with a frozen CLIP and without training.

    Built from a config by ``detectron2.modeling.build_model``, or from a segmenter in hand.

    Args:
        segmenter: the model and its settings. ``threshold`` and ``ignore`` leave pixels without a class, and are
            refused: ``sem_seg`` has no place for them.
        classes: as for `sclip_plugin.text.labels.parse_labels`; None for those of the segmenter's preset, or for later.
        input_format: channels of the pictures that `forward` gets: ``"RGB"``, ``"BGR"``, or ``"L"`` for one.

    Attributes:
        segmenter: does the work; its ``settings`` may be replaced at any time.
        clip: the segmenter's model, so that its weights are this module's.

    Raises:
        ValueError: an unknown format, a threshold, or ignored words.

    Example:
        >>> import sclip_plugin as sp
        >>> model = SCLIPSegmentor(segmenter=sp.Segmenter.from_pretrained("demo"), classes=["cat", "dog"]).eval()
        >>> model([{"image": torch.zeros(3, 48, 64), "height": 96, "width": 128}])[0]["sem_seg"].shape
        torch.Size([2, 96, 128])
    """

    @configurable
    def __init__(self, *, segmenter: Segmenter, classes: Labels | None = None, input_format: str = "RGB") -> None:
        super().__init__()
        if input_format not in FORMATS:
            raise SettingError(
                f"input_format (INPUT.FORMAT) is {input_format!r}; expected one of {', '.join(FORMATS)}."
            )
        settings = segmenter.settings
        leaving = [f"the step {step.as_text()}" for step in settings.make_steps() if step.name == "threshold"]
        if leaving := leaving + [f"ignore={settings.ignore}"] * bool(settings.ignore):
            raise SettingError(
                f"the segmenter has {leaving[0]}, which leaves pixels without a class, but every pixel of sem_seg has "
                "one; use the step benchmark(prob=…), which gives such pixels to class 0, or more classes."
            )
        self.segmenter = segmenter
        self.clip = segmenter.model
        self.input_format = input_format
        self._classes: Labels | None = None
        if classes is not None:
            self.set_classes(classes)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor out of a config with the node ``MODEL.SCLIP``."""
        node = cfg.MODEL.SCLIP
        segmenter = Segmenter.from_pretrained(
            node.NAME, device=cfg.MODEL.DEVICE, preset=node.PRESET or None, **settings_of(cfg)
        )
        classes = classes_of(cfg)
        logger.info("%s with %s", node.NAME, segmenter.settings.plain())
        if classes is not None:
            _compare_with_dataset(cfg, parse_labels(classes, segmenter.settings.background))
        return {"segmenter": segmenter, "classes": classes, "input_format": cfg.INPUT.FORMAT}

    @property
    def device(self) -> torch.device:
        """Where the pictures go."""
        return next(self.parameters()).device

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Classes and the names that stand for them; None as long as there are none."""
        if self._classes is None:
            return self.segmenter.vocabulary
        return parse_labels(self._classes, self.segmenter.settings.background)

    @property
    def metadata(self) -> Metadata:
        """Names and colours of the present classes, as ``detectron2.utils.visualizer.Visualizer`` takes them."""
        labels = self.vocabulary.labels if self.vocabulary else ()
        return Metadata(stuff_classes=list(labels), stuff_colors=colours_of(labels).tolist())

    def set_classes(self, classes: Labels) -> None:
        """Segment into other classes from now on; nothing is rebuilt, and known names cost no time.

        Args:
            classes: a list of names, in which a list names synonyms of one class; or a mapping of label to synonyms.

        Raises:
            LabelError: no classes, an empty one, or one twice.
        """
        parse_labels(classes, self.segmenter.settings.background)
        self._classes = classes

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Segment pictures, of one size or several; their windows share passes through the tower.

        Args:
            batched_inputs: a dict for each picture, as ``detectron2.data.DatasetMapper`` gives them:

                * "image": (C, H, W), values from 0 to 255, channels in the order of ``input_format``. Any integer or
                  floating-point type; rounded to 8 bits. Or what `encode` gave, as "encoded".
                * "height", "width" (int): size of the output; that of "image" where they are absent.

                Other keys are not read.

        Returns:
            A dict for each picture:

            * "sem_seg": (classes, height, width) float32 on the model's device, the score of each class at each pixel,
              from 0 to 1. The class with the highest is the segmenter's own label map: where its thresholds rule out
              the class that fits best, every class but the one that the pixel has scores 0. If no class is in the
              picture, all scores are 0.
            * "presence": a dict from class to a number from 0 to 1, with the step ``present`` only.

        Raises:
            RuntimeError: in training mode.
            LabelError: there are no classes yet.
            PictureError: an image of another form.
        """
        if self.training:
            raise RuntimeError(
                "SCLIPSegmentor is in training mode, but the method is training-free: there is no loss to give. Call "
                "model.eval() first; to evaluate, use python -m sclip_plugin.integrations.detectron2.eval."
            )
        if self.vocabulary is None:
            raise LabelError(
                "there are no classes yet: give MODEL.SCLIP.CLASSES (or CLASSES_FILE, CLASSES_FROM, PRESET), or call "
                "set_classes(['cat', 'dog'])."
            )
        pictures = [self._prepared(entry) for entry in batched_inputs if "encoded" not in entry]
        seen = self.segmenter.stream(pictures, self._classes)
        results = (
            entry["encoded"].segment(self._classes) if "encoded" in entry else next(seen) for entry in batched_inputs
        )
        outputs: list[dict[str, Any]] = []
        for result in results:
            outputs.append({"sem_seg": sem_seg_scores(result, self.device)})
            if result.presence is not None:
                outputs[-1]["presence"] = result.presence
        return outputs

    @torch.no_grad()
    def encode(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Encoded]]:
        """Look at pictures once, to segment them into many sets of classes: ``model(model.encode(inputs))``.

        Args:
            batched_inputs: as `forward` takes them.

        Returns:
            A dict for each picture with one key, "encoded", for `forward`; the size of the output is fixed with it.

        Raises:
            SettingError: the method's features depend on the words.
            PictureError: an image of another form.
        """
        pictures = [self._prepared(entry) for entry in batched_inputs]
        return [{"encoded": encoded} for encoded in self.segmenter.encode(pictures)]

    def _prepared(self, entry: dict[str, Any]) -> Prepared:
        image = _to_rgb(entry["image"], self.input_format)
        prepared = self.segmenter.prepare(image)
        height, width = prepared.size
        return replace(prepared, size=(int(entry.get("height", height)), int(entry.get("width", width))))


def sem_seg_scores(result: Segmentation, device: torch.device) -> Tensor:
    """Class scores (classes, H, W) whose argmax is the result's label map, on every pixel."""
    height, width = result.size
    scores = torch.empty(len(result.labels), height, width, device=device)
    for (rows, columns), tile in result.score_tiles(device):
        labels = torch.from_numpy(result.label_map[rows, columns]).to(tile.device, torch.int64)[None]
        # Pixels that the thresholds gave to another class than the best, and ties that rounding made.
        other = tile.argmax(dim=0, keepdim=True) != labels
        if other.any():
            own = tile.gather(0, labels.clamp(min=0)).nan_to_num().clamp(min=torch.finfo(tile.dtype).tiny)
            own = own.masked_fill(labels < 0, 0)
            tile = torch.where(other, torch.zeros_like(tile).scatter_(0, labels.clamp(min=0), own), tile)
        scores[:, rows, columns] = tile
    return scores


def _to_rgb(image: Tensor, input_format: str) -> Tensor:
    """(C, H, W) of values 0 to 255 to (3, H, W) uint8, RGB."""
    channels = 1 if input_format == "L" else 3
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
        shape = tuple(image.shape) if hasattr(image, "shape") else type(image).__name__
        raise PictureError(
            f"'image' is {shape}; expected a tensor ({channels}, H, W), INPUT.FORMAT being {input_format}."
        )
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        if low < -0.5 or high >= 255.5 or (high <= 1 and bool((image != image.round()).any())):
            raise PictureError(
                f"'image' holds values from {low:.3g} to {high:.3g}; expected 0 to 255. The model normalises by itself."
            )
        image = image.add(0.5).floor().to(torch.uint8) if image.is_floating_point() else image.to(torch.uint8)
    return image.flip(0) if input_format == "BGR" else image


def _compare_with_dataset(cfg: CfgNode, vocabulary: Vocabulary) -> None:
    """A word of warning where the classes cannot be those of the data set to test on."""
    for name in cfg.DATASETS.TEST:
        expected = MetadataCatalog.get(name).get("stuff_classes")
        if expected and len(expected) != len(vocabulary.labels):
            logger.warning(
                "MODEL.SCLIP names %d classes, the data set '%s' has %d; figures on it would mean nothing.",
                len(vocabulary.labels), name, len(expected),
            )  # fmt: skip
