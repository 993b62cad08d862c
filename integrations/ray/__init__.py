"""Many pictures on Ray: `segment_files` segments a collection into Parquet, in blocks that a stopped job keeps;
`segment_dataset` is a step of a Ray Data pipeline."""

from .cluster import start_ray
from .dataset import segment_dataset
from .job import Summary, segment_files

__all__ = ["Summary", "segment_dataset", "segment_files", "start_ray"]
