"""Which mean and standard deviation a plain ViT is shown its picture with."""

import pytest
import timm
import torch
from outside_models import timm_dino, transformers_model

from sclip_plugin.guides import load_guide
from sclip_plugin.guides.base import IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("do_normalize, mean", [(True, HALF), (False, IMAGENET_MEAN), (None, IMAGENET_MEAN)])
def test_a_folder_of_transformers_says_it(tmp_path, do_normalize, mean):
    """By its image processor, where there is one that normalises."""
    from transformers import ViTImageProcessor

    transformers_model("dino16").save_pretrained(tmp_path)
    if do_normalize is not None:
        ViTImageProcessor(image_mean=HALF, image_std=HALF, do_normalize=do_normalize).save_pretrained(tmp_path)
    guide = load_guide(str(tmp_path))
    assert guide.mean == pytest.approx(mean)
    grey = guide.normalised(torch.full((1, 3, 16, 16), 0.5))
    assert (grey.abs().max() < 1e-6) == (mean == HALF)


def test_timm_says_it_of_its_own_weights(monkeypatch):
    """Not of a file, whose weights may be another's."""
    model = timm_dino("dino16")
    model.pretrained_cfg = {"mean": HALF, "std": HALF, "tag": "augreg"}
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: model)
    assert load_guide("timm:vit_tiny_patch16_224.augreg").mean == HALF
    of_a_file = load_guide("timm:vit_tiny_patch16_224@weights.pth")
    assert (of_a_file.mean, of_a_file.std) == (IMAGENET_MEAN, IMAGENET_STD)
