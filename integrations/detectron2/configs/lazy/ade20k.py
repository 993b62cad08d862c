# ADE20K scene parsing, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/ade20k"
dataloader.test.dataset.names = "sclip_ade20k_sem_seg_val"
