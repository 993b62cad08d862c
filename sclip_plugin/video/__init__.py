"""Videos as streams of frames: labels or search, and what comes of them as an overlay video and a table."""

from .reading import Frame, Video
from .searching import Moment, search_video
from .segmenting import segment_video

__all__ = ["Frame", "Moment", "Video", "search_video", "segment_video"]
