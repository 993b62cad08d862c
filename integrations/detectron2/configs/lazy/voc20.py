# PASCAL VOC 2012 without background, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/voc20"
dataloader.test.dataset.names = "sclip_voc20_sem_seg_val"
