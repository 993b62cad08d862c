"""``sclip serve``: segmentation over HTTP. `make_server` gives the FastAPI app, `run` serves it."""

from .server import make_server, run
from .visitors import Limits

__all__ = ["Limits", "make_server", "run"]
