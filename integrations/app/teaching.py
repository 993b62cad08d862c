"""The page's part that learns: regions that are clicked or painted, their word, other pictures, and the file."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import PIL.Image

from sclip_plugin.draw.colours import colours_of
from sclip_plugin.errors import PictureError
from sclip_plugin.imaging.opening import opened

from ..serve.visitors import check_size
from .guard import uploaded
from .page import MOST_OTHERS, Page, Visit, fitted

if TYPE_CHECKING:
    from .segmenting import SegmentTab, Update

BRUSH = "#ff2e88"
HINT = (
    "Words stop at what the model calls things. Click a region in the result, or paint; say what it is; add a few; "
    "learn. One example helps already, of more pictures more."
)


class TeachPanel:
    """Builds the panel where it is made; `connect` lets its events be answered.

    Args:
        page: what the events are answered with.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        with gr.Accordion("Teach by example", open=False, elem_id="teach"):
            gr.HTML(f'<div class="sclip-status">{html.escape(HINT)}</div>')
            with gr.Row(equal_height=True):
                self.word = gr.Textbox(
                    show_label=False, placeholder="what it is, such as part 17-B", container=False, elem_id="word"
                )
                self.click = gr.Button("Add clicked region", size="md", elem_id="add-clicked")
                self.paint = gr.Button("Paint…", size="md", elem_id="paint")
            with gr.Column(visible=False) as self.easel:
                self.canvas = gr.ImageEditor(
                    label="Paint over a few regions of one thing", sources=(), transforms=(), layers=False,
                    brush=gr.Brush(default_size=16, colors=[BRUSH], color_mode="fixed"), type="filepath", format="png",
                    elem_id="canvas", buttons=[],
                )  # fmt: skip
                self.add = gr.Button("Add what is painted", size="md", elem_id="add-painted")
            self.examples = gr.HTML(examples_html(Visit()), elem_id="examples")
            with gr.Row():
                self.learn = gr.Button("Learn", variant="primary", size="md", elem_id="learn")
                self.forget = gr.Button("Forget all", size="md", elem_id="forget")
                self.save = gr.Button("Make the file", size="md", elem_id="save-learnt")
            self.file = gr.File(label="For sclip segment --labels @FILE", visible=False, height=90, elem_id="learnt")
            self.more = gr.File(
                label=f"Other pictures, up to {MOST_OTHERS}, to see the same there", file_count="multiple", height=130,
                elem_id="more",
            )  # fmt: skip
            self.gallery = gr.Gallery(
                label="Other pictures", columns=4, object_fit="contain", height=240, format="jpeg", visible=False,
                elem_id="others", buttons=["fullscreen"],
            )  # fmt: skip

    def connect(self, tab: SegmentTab) -> None:
        """Let the tab answer the events of this panel."""
        visit, asked = tab.visit, [tab.visit, *tab.chosen, *tab.drawing]
        shown = [self.examples, *tab.pictures, tab.place, self.canvas, self.easel]
        tab.on(self.click.click, self.clicked, [visit, self.word, *tab.drawing], shown, "multiple")
        tab.on(self.paint.click, self.painting, [visit], [self.canvas, self.easel])
        tab.on(self.add.click, self.painted, [visit, self.canvas, self.word, *tab.drawing], shown, "multiple", True)
        outputs = [*tab.answers, self.examples, self.gallery, self.file]
        tab.on(self.learn.click, self.learnt, asked, outputs)
        tab.on(self.forget.click, self.forgotten, asked, outputs)
        tab.on(self.save.click, self.saved, [visit], [self.file])
        tab.on(
            [self.more.upload, self.more.clear], self.others, [visit, self.more, *tab.drawing], [self.gallery], raw=True
        )
        self.tab = tab

    def clicked(self, visit: Visit, word: str, *drawing: Any) -> Update:
        return self._added(visit, visit.selected, word, *drawing)

    def painting(self, visit: Visit) -> Update:
        """Show the picture to paint on."""
        if visit.picture is None:
            raise PictureError("there is no picture to paint on: give one, or draw a scene.")
        shown = fitted(visit.picture)[0]
        value = {"background": shown, "layers": [], "composite": shown}
        return {self.canvas: value, self.easel: gr.update(visible=True)}

    def painted(self, visit: Visit, canvas: dict[str, Any] | None, word: str, *drawing: Any) -> Update:
        if visit.picture is None:
            raise PictureError("there is no picture: give one, or draw a scene.")
        region = np.zeros((visit.picture.height, visit.picture.width), bool)
        for layer in (canvas or {}).get("layers") or ():
            with opened(uploaded(layer["path"], self.canvas.GRADIO_CACHE)) as file:
                check_size(file.size, self.page.limits)
                alpha = file.convert("RGBA").getchannel("A").resize(visit.picture.size, PIL.Image.Resampling.NEAREST)
            region |= np.asarray(alpha) > 127
        return self._added(visit, region, word, *drawing)

    def _added(self, visit: Visit, region: np.ndarray | None, word: str, *drawing: Any) -> Update:
        self.page.teach(visit, region, str(word))
        return {
            **self.tab.redraw(visit, *drawing), self.tab.place: "", self.examples: examples_html(visit),
            **self.hidden(),
        }  # fmt: skip

    def hidden(self) -> Update:
        """No canvas: another picture came, or what was painted is taken."""
        return {self.canvas: None, self.easel: gr.update(visible=False)}

    def learnt(self, visit: Visit, *asked: Any) -> Update:
        if not visit.lessons.words:
            raise PictureError("there are no examples: click a region or paint, give it a word, and add it.")
        visit.lessons.learnt = True
        return {**self.tab.ask(visit, *asked), self.examples: examples_html(visit)}

    def forgotten(self, visit: Visit, *asked: Any) -> Update:
        visit.lessons.forget()
        update = {self.file: gr.update(value=None, visible=False), self.examples: examples_html(visit)}
        return {**self.tab.ask(visit, *asked), **update}

    def saved(self, visit: Visit) -> Update:
        return {self.file: gr.update(value=str(self.page.learnt_file(visit)), visible=True)}

    def others(self, visit: Visit, files: list[dict[str, Any]] | None, *drawing: Any) -> Update:
        """Take other pictures, and answer the last question for them."""
        cache = self.more.GRADIO_CACHE
        named = [record_of(file) for file in files or ()]
        self.page.add_others(visit, [(uploaded(path, cache), name) for path, name in named])
        return self.answered(visit, *drawing)

    def answered(self, visit: Visit, *drawing: Any) -> Update:
        """The other pictures, with the answers to the visit's question."""
        if not visit.others:
            return {self.gallery: gr.update(value=None, visible=False)}
        shown = []
        for picture, name in visit.others:
            if visit.question:
                words, changes, *_ = visit.question
                result = self.page.segment(picture, words, changes, visit.lessons)
                picture = result.overlay(opacity=drawing[1], legend=False)
            shown.append((picture, name))
        return {self.gallery: gr.update(value=shown, visible=True)}


def examples_html(visit: Visit) -> str:
    """The words that have examples, and how many."""
    lessons = visit.lessons
    if not lessons.words:
        return '<div class="sclip-legend"><span class="absent">No examples yet.</span></div>'
    entries = []
    for word, colour in zip(lessons.words, colours_of(lessons.words), strict=True):
        count = lessons.regions[word]
        entries.append(
            f'<span><i style="background: rgb({", ".join(map(str, colour))})"></i>{html.escape(word)} '
            f"{count} region{'s' * (count > 1)}</span>"
        )
    pictures = len(lessons.of_pictures)
    entries.append(f'<span class="absent">in {pictures} picture{"s" * (pictures > 1)}</span>')
    return f'<div class="sclip-legend">{"".join(entries)}</div>'


def said_of(visit: Visit) -> str:
    """What learning gave, for the status."""
    tuned = visit.lessons.tuned
    if not visit.lessons.learnt or tuned is None:
        return ""
    left_out, chosen = tuned.report["left_out"], tuned.report["chosen"]
    regions = sum(visit.lessons.regions.values())
    said = f", learnt from {regions} region{'s' * (regions > 1)}"
    if left_out is not None:
        said += f" (left-out pictures: mIoU {left_out['words']:.0f} with words, {left_out['tuned']:.0f} learnt)"
    return f"{said}; left-out pictures do not gain, so words stay" if isinstance(chosen, str) else said


def record_of(payload: dict[str, Any]) -> tuple[Any, str]:
    """Path and name of an uploaded file, unread: what is wrong with it is said in this package's words."""
    path = payload.get("path")
    return path, str(payload.get("orig_name") or Path(str(path)).name)
