"""The page's tab for one picture: words, overlay, regions, methods side by side, downloads, and the same in commands.

Each visitor has a `Visit` of their own. What a person typed is read and never written: only a drawn scene offers words,
and only in place of words that were there when it was asked for.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gradio as gr
import PIL.Image

from sclip_plugin.errors import SclipError
from sclip_plugin.export import list_formats
from sclip_plugin.segment.segmentation import Segmentation

from .commands import command_of, python_of
from .guard import uploaded
from .page import Page, Visit, fitted, outlined
from .showing import ONE_AT_A_TIME, legend_html, place_html, status_html
from .teaching import TeachPanel, record_of, said_of

FILL, OUTLINE = "colours", "outlines only"
NONE = "none"
OFFER = "(offer, now) => [offer && JSON.stringify(offer.before) === JSON.stringify(now) ? offer.words : now]"
"""JavaScript: the offered words, unless words were typed since the offer was asked for."""

Update = dict[Any, Any]
"""New values of components; the others stay."""


class SegmentTab:
    """Builds the tab where it is made, and answers its events.

    Args:
        page: what the events are answered with.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.visit = gr.State(Visit(), time_to_live=3600)
        self.offer = gr.JSON(visible=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._build_inputs()
            with gr.Column(scale=5, min_width=300):
                self._build_results()
                self.teach = TeachPanel(page)
                self._build_downloads()
        self.chosen: list[Any] = [self.words, self.method, self.beside, self.refine, self.background, self.threshold]
        self.drawing: list[Any] = [self.style, self.opacity, self.heat]
        self.pictures: list[Any] = [self.first, self.second, self.legend]
        self.answers = [*self.pictures, self.heat, self.place, self.file, self.python, self.command]
        self.answers += [self.teach.gallery, self.teach.canvas, self.teach.easel]
        self._connect()

    def _build_inputs(self) -> None:
        settings = self.page.segmenter.settings
        self.picture = gr.Image(label="Picture", sources=["upload", "clipboard"], height=260, elem_id="picture")
        self.draw = gr.Button("Draw a scene", size="sm", elem_id="draw")
        self.words = gr.Dropdown(
            label="Words", info="Enter after each; 'sofa|couch' are two names of one thing.", multiselect=True,
            allow_custom_value=True, elem_id="words",
        )  # fmt: skip
        self.find = gr.Button("What is here?", size="sm", elem_id="names")
        with gr.Accordion("Method and settings", open=False):
            self.method = gr.Dropdown(self.page.methods, value=settings.method_name, label="Method")
            self.beside = gr.Dropdown([NONE, *self.page.methods], value=NONE, label="Beside it", elem_id="beside")
            self.refine = gr.Checkbox(bool(self.page.own("refine")), label="Refine along edges")
            self.background = gr.Checkbox(settings.background, label="Background: what is none of the words")
            self.threshold = gr.Slider(0, 1, self.page.own("threshold") or 0, label="Leave out scores below", step=0.01)

    def _build_results(self) -> None:
        hint = "Drop a picture and type what may be in it, or draw a scene."
        self.status = gr.HTML(status_html(hint), elem_id="status")
        with gr.Row():
            self.first = _shown("Result", "first")
            self.second = _shown("Beside it", "second", visible=False)
        self.legend = gr.HTML(elem_id="legend")
        self.place = gr.HTML(elem_id="place")
        with gr.Row():
            self.hide = gr.Button("Hide region", size="md", elem_id="hide")
            self.name = gr.Textbox(show_label=False, placeholder="another label", container=False, elem_id="name")
            self.rename = gr.Button("Rename region", size="md", elem_id="rename")
            self.undo = gr.Button("Undo", size="md", elem_id="undo")
        with gr.Row():
            self.style = gr.Radio([FILL, OUTLINE], value=FILL, label="Regions as", elem_id="style")
            self.opacity = gr.Slider(0, 1, 0.55, step=0.05, label="Opacity", elem_id="opacity")
            self.heat = gr.Dropdown([NONE], value=NONE, label="Heat map of", elem_id="heat")

    def _build_downloads(self) -> None:
        with gr.Accordion("Download", open=False, elem_id="download"):
            with gr.Row():
                self.format = gr.Dropdown(list_formats(), value="png", label="Format", elem_id="format")
                self.make = gr.Button("Make the file", elem_id="make")
            self.file = gr.File(label="File", elem_id="file", height=90)
        with gr.Accordion("The same in Python and on the command line", open=False, elem_id="same"):
            self.python = gr.Code(language="python", label="Python", interactive=False, wrap_lines=True)
            self.command = gr.Code(language="shell", label="Command line", interactive=False, wrap_lines=True)

    def _connect(self) -> None:
        visit, asked = self.visit, [self.visit, *self.chosen, *self.drawing]
        opened = self.on(
            self.picture.input, self.opened, [visit, self.picture], [*self.answers, self.picture], raw=True
        )
        drawn = self.on(self.draw.click, self.drawn, [visit, self.words], [*self.answers, self.picture, self.offer])
        offered = drawn.then(None, [self.offer, self.words], self.words, js=OFFER, api_visibility="private")
        found = self.on(self.find.click, self.found, [visit, self.words, self.method], [self.offer])
        named = found.then(None, [self.offer, self.words], self.words, js=OFFER, api_visibility="private")
        asking = [self.words.change, *(box.input for box in self.chosen[1:])]
        self.on(asking, self.ask, asked, self.answers)
        for step in (opened, offered, named):
            self.on(step, self.ask, asked, self.answers)
        self.on([box.input for box in self.drawing], self.redraw, [visit, *self.drawing], self.pictures)
        self.on(self.first.select, self.clicked, [visit, *self.drawing], [*self.pictures, self.place])
        changed = [*self.pictures, self.place, self.file]
        self.on(self.hide.click, self.hidden, [visit, *self.drawing], changed, "multiple")
        self.on(
            [self.rename.click, self.name.submit], self.renamed, [visit, self.name, *self.drawing], changed, "multiple"
        )
        self.on(self.undo.click, self.undone, [visit, *self.drawing], changed, "multiple")
        self.on(self.make.click, self.exported, [visit, self.format], [self.file])
        self.teach.connect(self)

    def on(
        self, trigger: Any, do: Callable[..., Update], inputs: list[Any], outputs: list[Any],
        mode: Any = "always_last", raw: bool = False,
    ) -> Any:  # fmt: skip
        """Let events, or the end of an earlier one, be answered by a handler.

        What the handler says goes into the status, in place of the mistake of an earlier event. With ``raw`` it gets
        what the browser sent, so that files are opened by this package alone.
        """

        @functools.wraps(do)  # gradio looks for SelectData in the annotations
        def said(visit: Visit, *values: Any) -> Update:
            try:
                update = do(visit, *values)
            except SclipError as error:
                return {self.status: status_html(str(error), wrong=True), self.visit: visit}
            visit.note = update.pop("note", visit.note)
            wrong = bool(visit.refusal) and visit.note == visit.refusal
            update = {component: value for component, value in update.items() if component in outputs}
            return {**update, self.status: status_html(visit.note, wrong), self.visit: visit}

        all_outputs = list({*outputs, self.status, self.visit})
        options = {"show_progress": "minimal", "trigger_mode": mode, "preprocess": not raw, **ONE_AT_A_TIME}
        if hasattr(trigger, "then"):
            return trigger.then(said, inputs, all_outputs, **options)
        return gr.on(trigger, said, inputs, all_outputs, **options)

    def opened(self, visit: Visit, sent: dict[str, Any] | None) -> Update:
        """Take the picture that was uploaded; what belonged to the one before goes."""
        try:
            if not sent:
                visit.take(None)
            else:
                path, name = record_of(sent)
                self.page.open(visit, uploaded(path, self.picture.GRADIO_CACHE), name)
        except SclipError as error:
            visit.take(None, refusal=str(error))
            return {**self._nothing(visit), self.picture: None}
        return self._nothing(visit)

    def drawn(self, visit: Visit, words: list[str]) -> Update:
        """Take the next drawn scene, and offer its labels in place of none or of those of the last scene."""
        labels = self.page.draw(visit)
        is_free = not words or words == visit.offered
        offer = {"before": words, "words": labels} if is_free else None
        visit.offered = labels if is_free else visit.offered
        return {**self._nothing(visit), self.picture: visit.picture, self.offer: offer}

    def found(self, visit: Visit, words: list[str], method: str) -> Update:
        """Offer what is in the picture as words, after those that are there."""
        names = self.page.names(visit.picture, self._changes(method=method))
        more = [*(words or []), *(name for name in names if name not in (words or []))]
        if not words or words == visit.offered:
            visit.offered = more
        note = f"Found: {', '.join(names)}." if names else "Nothing was found that the list has a word for."
        return {self.offer: {"before": words, "words": more}, "note": note}

    def ask(
        self, visit: Visit, words: list[str], method: str, beside: str, refine: bool, background: bool,
        threshold: float, style: str, opacity: float, heat: str,
    ) -> Update:  # fmt: skip
        """Answer a question about the visit's picture, unless it is the one that was answered last."""
        typed = [word.strip() for entry in words or [] for word in str(entry).split(",") if word.strip()]
        if visit.picture is None or not typed:
            visit.answer(None)
            return self._nothing(visit)
        changes = self._changes(method=method, refine=refine, background=background)
        changes |= self._changes(threshold=threshold or False)
        question = (typed, changes, beside, visit.lessons.version())
        if question == visit.question:
            return {}
        start = time.perf_counter()
        result = self.page.segment(visit.picture, typed, changes, visit.lessons)
        seconds = f"{1000 * (time.perf_counter() - start):.0f} ms{said_of(visit)}"
        other = None
        if beside != NONE:
            other = self.page.segment(visit.picture, typed, {**changes, "method": beside}, visit.lessons)
        visit.answer(result, other, question)
        return {
            **self.redraw(visit, style, opacity, heat),
            **self.teach.answered(visit, style, opacity, heat),
            self.heat: self._heat_choices(visit, heat),
            self.place: "",
            self.file: None,
            self.python: python_of(self.page, visit, typed, changes),
            self.command: command_of(self.page, visit, typed, changes),
            "note": f"{len(result.labels)} labels, {self.page.segmenter.device}, {seconds}",
        }

    def redraw(self, visit: Visit, style: str, opacity: float, heat: str) -> Update:
        """Draw the result again, another way."""
        if visit.result is None:
            return self._nothing(visit)

        def one(result: Segmentation) -> PIL.Image.Image:
            if heat in result.labels:
                return fitted(result.heatmap(heat))[0]
            how: Any = "outline" if style == OUTLINE else "fill"
            picture = result.overlay(opacity=opacity, style=how, legend=False)
            return fitted(outlined(picture, visit.selected))[0]

        shown = visit.shown
        if shown.scores is None:
            heat = NONE
        right = gr.update(value=None, visible=False)
        if visit.other is not None:
            right = gr.update(value=one(visit.other), visible=True, label=_method(visit.other))
        left = gr.update(value=one(shown), label=_method(shown))
        return {self.first: left, self.second: right, self.legend: legend_html(shown)}

    def clicked(self, visit: Visit, style: str, opacity: float, heat: str, event: gr.SelectData) -> Update:
        """Select the region at a pixel of the result, and say what may be there."""
        if visit.result is None:
            return {self.place: ""}
        assert visit.picture is not None, "a result is of a picture"
        scale = fitted(visit.picture)[1]
        x, y = (int(value / scale) for value in event.index)
        found = self.page.select(visit, x, y)
        place = "" if found is None else place_html(found, x, y)
        return {**self.redraw(visit, style, opacity, heat), self.place: place}

    def hidden(self, visit: Visit, *drawing: Any) -> Update:
        self.page.edit(visit, None)
        return self._edited(visit, *drawing)

    def renamed(self, visit: Visit, name: str, *drawing: Any) -> Update:
        self.page.edit(visit, str(name))
        return self._edited(visit, *drawing)

    def undone(self, visit: Visit, *drawing: Any) -> Update:
        visit.selected = None
        if visit.edits:
            visit.edits.pop()
        return self._edited(visit, *drawing)

    def exported(self, visit: Visit, format: str) -> Update:
        return {self.file: str(self.page.export(visit, format))}

    def _edited(self, visit: Visit, *drawing: Any) -> Update:
        """What is selected, and a file that was made before, go with the region that they speak of."""
        return {**self.redraw(visit, *drawing), self.place: "", self.file: None}

    def _nothing(self, visit: Visit) -> Update:
        """No result, and what is missing for one."""
        missing = "Give words: what may be in the picture." if visit.picture is not None else "Give a picture."
        return {
            self.first: None, self.second: gr.update(value=None, visible=False), self.legend: "", self.place: "",
            self.heat: gr.update(choices=[NONE], value=NONE), self.file: None, self.python: "", self.command: "",
            **self.teach.hidden(), "note": visit.refusal or missing,
        }  # fmt: skip

    def _heat_choices(self, visit: Visit, heat: str) -> Any:
        """The labels to choose from; the choice itself is written only if its label is gone."""
        choices = [NONE, *visit.shown.labels]
        return gr.update(choices=choices) if heat in choices else gr.update(choices=choices, value=NONE)

    def _changes(self, **values: Any) -> dict[str, Any]:
        """What differs from the segmenter's settings."""
        return {name: value for name, value in values.items() if self.page.own(name) != value}


def _shown(label: str, name: str, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, format="png", elem_id=name, elem_classes="sclip-picture", visible=visible,
        buttons=["fullscreen"],
    )  # fmt: skip


def _method(result: Segmentation) -> str:
    return str(result.settings["method"])
