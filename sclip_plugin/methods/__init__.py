"""What the last block computes: one file per family of methods, and the registry."""

from .base import AttentionMethod, Method
from .registry import METHODS, list_methods, make_method, register_method

# The order of these imports is the order in which `list_methods` and `sclip methods` show them.
from . import attention, gem, resclip, scclip  # noqa: F401, I001

__all__ = ["METHODS", "AttentionMethod", "Method", "list_methods", "make_method", "register_method"]
