"""The table of all models, `models` and `families` together, and of all methods."""

from . import families  # noqa: F401  its cases stand in CASES
from .case import CASES, Case
from .models import FUNCTIONAL, METHODS, OPTIONS

__all__ = ["CASES", "FUNCTIONAL", "METHODS", "OPTIONS", "Case"]
