"""Many pictures on Ray: `segment_dataset` segments a collection into Parquet, in blocks that a stopped job keeps."""

from .dataset import Summary, segment_dataset, start_ray

__all__ = ["Summary", "segment_dataset", "start_ray"]
