"""What the last block computes: one file per family of methods, and the registry."""

# The order of these modules is the order in which `list_methods` and `sclip methods` show what they register.
from . import attention, pearl, gem, surgery, itaclip, dinoiser, resclip, scclip  # noqa: F401, I001
from . import proxy, trident, corrclip, textregion, sam3  # noqa: F401, I001
from .base import AttentionMethod, Dense, Method, PictureMethod
from .registry import METHODS, list_methods, make_method, methods_alone, register_method

__all__ = [
    "METHODS",
    "AttentionMethod",
    "Dense",
    "Method",
    "PictureMethod",
    "list_methods",
    "make_method",
    "methods_alone",
    "register_method",
]
