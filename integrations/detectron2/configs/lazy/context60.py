# PASCAL Context with background, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/context60"
dataloader.test.dataset.names = "sclip_context60_sem_seg_val"
