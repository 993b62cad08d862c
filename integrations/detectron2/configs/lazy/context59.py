# PASCAL Context without background, with the classes and settings of SCLIP's authors.
from .common.sclip import dataloader, model

model.segmenter.preset = "sclip/context59"
dataloader.test.dataset.names = "sclip_context59_sem_seg_val"
