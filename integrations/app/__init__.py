"""``sclip app``: a web page on this machine. `make_app` gives the gradio page, `served` the ASGI application around
it, `run` serves it."""

from .layout import make_app
from .serving import run, served

__all__ = ["make_app", "run", "served"]
