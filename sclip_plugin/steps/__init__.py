"""Steps between a picture's scores and its pixels: one file a paper, and the registry."""

from . import lposs  # noqa: F401
from .base import PatchScores, PostStep
from .registry import STEPS, list_steps, make_step, register_step

__all__ = ["STEPS", "PatchScores", "PostStep", "list_steps", "make_step", "register_step"]
