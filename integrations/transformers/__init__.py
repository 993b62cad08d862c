"""``pipeline("zero-shot-segmentation")`` in transformers.

import sclip_plugin                      # before or after the next line; it registers the task
from transformers import pipeline

pipe = pipeline("zero-shot-segmentation", model="openai/clip-vit-base-patch16")
pipe("photo.jpg", candidate_labels=["cat", "sofa"])
"""

# First of all: this fires the hook that `import sclip_plugin` has set, which imports the module below.
import transformers.pipelines  # noqa: F401, I001

from .pipeline import ZeroShotSegmentationPipeline, register

__all__ = ["ZeroShotSegmentationPipeline", "register"]
