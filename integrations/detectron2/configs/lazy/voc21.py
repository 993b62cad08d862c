# PASCAL VOC 2012 with background, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/voc21"
dataloader.test.dataset.names = "sclip_voc21_sem_seg_val"
