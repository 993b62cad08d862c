# Cityscapes, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/cityscapes"
dataloader.test.dataset.names = "sclip_cityscapes_sem_seg_val"
