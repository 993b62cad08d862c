"""``sclip app`` as a server: gradio's page behind the two guards."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable

import fastapi
import gradio as gr
from gradio.networking import setup_tunnel
from starlette.middleware import Middleware

from sclip_plugin.index.collection import Index
from sclip_plugin.segment.segmenter import Segmenter

from ..serve.door import HostGuard, PortError, listen
from ..serve.visitors import Limits
from .guard import PageGuard
from .layout import CSS, make_app


def run(
    segmenter: Segmenter,
    model: str = "demo",
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    limits: Limits | None = None,
    index: Index | None = None,
    allow_hosts: Iterable[str] = (),
) -> None:
    """Serve the page until the program is stopped.

    Args:
        segmenter, model, limits, index: as for `make_app`.
        host, port: where to listen.
        share: also make a public address through gradio's servers.
        allow_hosts: names that the page answers to, beside localhost and the address it listens at.

    Raises:
        PortError: the port can't be listened at, or no public address can be had.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    bounds = limits or Limits()
    names = list(allow_hosts)
    if share:
        names.append(_public_name(host, port))
    with tempfile.TemporaryDirectory(prefix="sclip-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of this page alone, and gone with it
        listen(served(make_app(segmenter, model, bounds, index), bounds, names), host, port, bounds)


def _public_name(host: str, port: int) -> str:
    """The host name under which gradio's servers make the page public, once they do."""
    try:
        address = setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # the network, gradio's servers, or the program that it fetches from there
        raise PortError(f"no public address could be made: {error}. Try again later, or leave out --share.") from error
    name = address.split("//")[-1]
    print(f"public address: https://{name}", file=sys.stderr)
    return name


def served(page: gr.Blocks, limits: Limits | None = None, allow_hosts: Iterable[str] = ()) -> fastapi.FastAPI:
    """The page as an ASGI application that answers what the page itself asks, and refuses the rest.

    Args:
        page: of `make_app`.
        limits: what a visitor may ask for.
        allow_hosts: names that it answers to, beside localhost.
    """
    bounds = limits or Limits()
    page.queue(max_size=bounds.waiting, api_open=False)
    page.state_session_capacity = bounds.visitors
    guards = [Middleware(HostGuard, names=allow_hosts), Middleware(PageGuard, uploads=page.GRADIO_CACHE)]
    return gr.mount_gradio_app(
        fastapi.FastAPI(middleware=guards, openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=int(bounds.megabytes * 1e6),
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
