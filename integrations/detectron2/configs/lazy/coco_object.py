# COCO-Object, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/coco_object"
dataloader.test.dataset.names = "sclip_coco_object_sem_seg_val"
