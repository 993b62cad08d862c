# COCO-Stuff 164k, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/coco_stuff"
dataloader.test.dataset.names = "sclip_coco_stuff_sem_seg_val"
