"""The page's tab that searches a collection: the pictures that hold something, and where in them."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from sclip_plugin.errors import SclipError

from .page import MOST_FOUND, Page
from .showing import ONE_AT_A_TIME, status_html


def search_tab(page: Page) -> None:
    """Build the tab."""
    assert page.index is not None, "without an index there is no tab"
    with gr.Row():
        words = gr.Textbox(label="Words", info="Between commas all have to be there; '|' joins synonyms.", scale=3)
        without = gr.Textbox(label="Without", info="What shall not be there.", scale=2)
        top = gr.Slider(1, MOST_FOUND, 20, step=1, label="Pictures", scale=1, min_width=260)
    find = gr.Button("Search", elem_id="find")
    status = gr.HTML(status_html(f"{len(page.index)} pictures."), elem_id="found-status")
    found = gr.Gallery(
        label="Found", columns=4, object_fit="contain", height="auto", format="jpeg", elem_id="found",
        buttons=["download", "fullscreen"],
    )  # fmt: skip

    def search(words: str, without: str, top: int) -> tuple[Any, str]:
        start = time.perf_counter()
        try:
            pictures = page.search(words, without, int(top))
        except SclipError as error:
            return [], status_html(str(error), wrong=True)
        return pictures, status_html(f"{len(pictures)} pictures in {1000 * (time.perf_counter() - start):.0f} ms.")

    gr.on(
        [find.click, words.submit, without.submit], search, [words, without, top], [found, status],
        show_progress="minimal", **ONE_AT_A_TIME,
    )  # fmt: skip
