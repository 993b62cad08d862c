"""The table of all models, `models` and `families` together, and of all methods."""

from . import families  # noqa: F401  its cases stand in CASES
from .case import CASES, Case
from .models import METHODS, OPTIONS

__all__ = ["CASES", "METHODS", "OPTIONS", "Case"]
