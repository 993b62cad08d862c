"""What the benchmarks' configs share: the model, the loader and the evaluator."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from omegaconf import OmegaConf
from sclip_plugin.integrations.detectron2 import IoUEvaluator, PictureMapper, SCLIPSegmentor

from sclip_plugin import Segmenter

model = L(SCLIPSegmentor)(
    # Any further argument of Segmenter.from_pretrained may be set: device, method, window, …
    segmenter=L(Segmenter.from_pretrained)(name="openai/clip-vit-base-patch16", preset=None),
    classes=None,  # the preset's
    input_format="RGB",
)

dataloader = OmegaConf.create()

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="", filter_empty=False),
    # Pictures reach the model in their own size; it resizes them itself, as the papers' protocol does.
    mapper=L(PictureMapper)(is_train=False, augmentations=[], image_format="${model.input_format}"),
    num_workers=4,
)

dataloader.evaluator = L(IoUEvaluator)(dataset_name="${..test.dataset.names}")
