"""Results in the formats that people work in: training sets, annotation programs, maps, tables.

    result.export("out", "coco")  # one picture; sclip segment --format coco,yolo for folders

A format is a class in a file of its own; `registry.FORMATS` maps names to them, third parties' included.
"""

from .base import Format, Item
from .opening import list_formats, open_export
from .registry import register_format

__all__ = ["Format", "Item", "list_formats", "open_export", "register_format"]
