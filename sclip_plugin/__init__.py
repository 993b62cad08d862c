"""Dense, open-vocabulary vision from frozen CLIP models: SCLIP's correlative self-attention and its successors.

    import sclip_plugin as sp

    sp.apply_csa(model)                                   # a CLIP of transformers, timm or open_clip; in place
    result = sp.Segmenter.from_pretrained("demo")("photo.jpg", ["cat", "remote control", ["sofa", "couch"]])

Importing this package imports neither torch nor any framework: each name below is loaded when it is first used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .importing import after_import, lazy_names

__version__ = "0.1.0"

_HOMES = {
    "apply": "patching",
    "apply_csa": "patching",
    "applied": "patching",
    "restore": "patching",
    "dense_features": "dense",
    "AttentionMethod": "methods",
    "Method": "methods",
    "PictureMethod": "methods",
    "list_methods": "methods",
    "register_method": "methods",
    "Step": "steps",
    "list_steps": "steps",
    "register_step": "steps",
    "Tower": "towers",
    "find_tower": "towers",
    "list_towers": "towers",
    "register_tower": "towers",
    "Encoded": "segment.encoded",
    "Index": "index.collection",
    "MemoryBank": "steps.memory",
    "Presence": "steps.presence",
    "Segmentation": "segment.segmentation",
    "Prepared": "segment.encoding",
    "Segmenter": "segment.segmenter",
    "Settings": "settings",
    "SclipError": "errors",
    "Tuned": "text.tuned",
    "demo_model": "demo",
    "draw_scene": "demo",
    "search_video": "video",
    "segment_video": "video",
}
__all__ = [
    "AttentionMethod",
    "Encoded",
    "Index",
    "MemoryBank",
    "Method",
    "PictureMethod",
    "Prepared",
    "Presence",
    "Segmentation",
    "SclipError",
    "Segmenter",
    "Settings",
    "Step",
    "Tower",
    "Tuned",
    "__version__",
    "applied",
    "apply",
    "apply_csa",
    "demo_model",
    "dense_features",
    "draw_scene",
    "find_tower",
    "list_methods",
    "list_steps",
    "list_towers",
    "register_method",
    "register_step",
    "register_tower",
    "restore",
    "search_video",
    "segment_video",
]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

if TYPE_CHECKING:
    from .demo import demo_model, draw_scene
    from .dense import dense_features
    from .errors import SclipError
    from .index.collection import Index
    from .methods import AttentionMethod, Method, PictureMethod, list_methods, register_method
    from .patching import applied, apply, apply_csa, restore
    from .segment.encoded import Encoded
    from .segment.encoding import Prepared
    from .segment.segmentation import Segmentation
    from .segment.segmenter import Segmenter
    from .settings import Settings
    from .steps import Step, list_steps, register_step
    from .steps.memory import MemoryBank
    from .steps.presence import Presence
    from .text.tuned import Tuned
    from .towers import Tower, find_tower, list_towers, register_tower
    from .video import search_video, segment_video


def _register_pipeline() -> None:
    from .integrations.transformers.pipeline import register

    register()


# transformers.pipeline("zero-shot-segmentation"), whichever of the two packages is imported first. It puts a finder
# into sys.meta_path; SCLIP_PIPELINE=0 avoids that, and integrations.transformers.register() does it by hand.
if os.environ.get("SCLIP_PIPELINE", "1") != "0":
    after_import("transformers.pipelines", _register_pipeline)
