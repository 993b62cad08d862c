"""The page as gradio draws it: one tab for a picture, and one for a collection if there is one."""

from __future__ import annotations

import gradio as gr

from sclip_plugin.index.collection import Index
from sclip_plugin.segment.segmenter import Segmenter

from ..serve.visitors import Limits
from .page import Page
from .searching import search_tab
from .segmenting import SegmentTab

CSS = """
.sclip-legend { display: flex; flex-wrap: wrap; gap: .3rem .9rem; line-height: 1.4; }
.sclip-legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.sclip-legend .absent { opacity: .5; }
.sclip-legend meter { display: block; width: 100%; min-width: 4em; height: .5em; }
.sclip-status { min-height: 1.5em; opacity: .8; } .sclip-status.wrong { color: #b3261e; opacity: 1; }
.dark .sclip-status.wrong { color: #ffb4ab; }
.sclip-picture img { cursor: crosshair; }
"""


def make_app(
    segmenter: Segmenter, model: str = "demo", limits: Limits | None = None, index: Index | None = None
) -> gr.Blocks:
    """The page: a picture, words, and what is where. `served` makes a server of it.

    Args:
        segmenter: asked by this page alone. Its settings are where visitors start.
        model: its name, for the commands that the page shows.
        limits: what a visitor may ask for.
        index: a collection that visitors may search.
    """
    page = Page(segmenter, model, limits, index)
    with gr.Blocks(title="sclip", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown("# sclip\nName things in words, get their masks. Click the result to see what is where.")
        if index is None:
            SegmentTab(page)
        else:
            with gr.Tabs():
                with gr.Tab("One picture"):
                    SegmentTab(page)
                with gr.Tab("Search", elem_id="search-tab"):
                    search_tab(page)
    return app
