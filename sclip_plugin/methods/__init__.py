"""What the last block computes: one file per family of methods, and the registry."""

# The order of these modules is the order in which `list_methods` and `sclip methods` show what they register.
from . import attention, gem, resclip, scclip, proxy, trident  # noqa: F401, I001
from .base import AttentionMethod, Method
from .registry import METHODS, list_methods, make_method, methods_alone, options_of, register_method

__all__ = [
    "METHODS",
    "AttentionMethod",
    "Method",
    "list_methods",
    "make_method",
    "methods_alone",
    "options_of",
    "register_method",
]
