"""``sclip app``: a web page on this machine. `make_app` gives the gradio page, `run` serves it."""

from .layout import make_app, run

__all__ = ["make_app", "run"]
