"""Masks of a picture as data, and what needs nothing but masks and labels."""

from .vote import mask_vote

__all__ = ["mask_vote"]
