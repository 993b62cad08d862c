"""Regions of unlabelled pictures, remembered: what lies on disk, and how it is searched."""

from .store import MemoryStore

__all__ = ["MemoryStore"]
