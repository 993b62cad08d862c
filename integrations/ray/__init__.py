"""Many pictures on Ray: `segment_files` segments a collection into Parquet, in blocks that a stopped job keeps;
`segment_dataset` is a step of a Ray Data pipeline; `RayLook` builds an index."""

from .cluster import start_ray
from .dataset import segment_dataset
from .indexing import RayLook
from .job import Summary, segment_files

__all__ = ["RayLook", "Summary", "segment_dataset", "segment_files", "start_ray"]
