"""``sclip serve``: segmentation over HTTP. `make_server` gives the FastAPI app, `run` serves it."""

from .server import Limits, make_server, run

__all__ = ["Limits", "make_server", "run"]
