"""The page as gradio draws it. Each visitor has a `Visit` of their own; nothing is fetched from elsewhere."""

from __future__ import annotations

import functools
import html
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image

from sclip_plugin.draw.colours import colours_of, is_neutral
from sclip_plugin.draw.overlay import percent
from sclip_plugin.errors import SclipError
from sclip_plugin.export import list_formats
from sclip_plugin.index.collection import Index
from sclip_plugin.segment.segmentation import Segmentation
from sclip_plugin.segment.segmenter import Segmenter

from ..serve.visitors import Limits
from .commands import command_of, python_of
from .page import MOST_FOUND, Page, Visit, enlarged, outlined

FILL, OUTLINE = "colours", "outlines only"
NONE = "none"
CSS = """
.sclip-legend { display: flex; flex-wrap: wrap; gap: .3rem .9rem; line-height: 1.4; }
.sclip-legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.sclip-status { min-height: 1.5em; opacity: .8; } .sclip-status.wrong { color: #b3261e; opacity: 1; }
.dark .sclip-status.wrong { color: #ffb4ab; }
.sclip-picture img { cursor: crosshair; }
"""


def make_app(
    segmenter: Segmenter, model: str = "demo", limits: Limits | None = None, index: Index | None = None
) -> gr.Blocks:
    """The page: a picture, words, and what is where.

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
            segment_tab(page)
        else:
            with gr.Tabs():
                with gr.Tab("One picture"):
                    segment_tab(page)
                with gr.Tab("Search", elem_id="search-tab"):
                    search_tab(page)
    return app


def run(
    segmenter: Segmenter,
    model: str = "demo",
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    limits: Limits | None = None,
    index: Index | None = None,
) -> None:
    """Serve the page until stopped."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    bounds = limits or Limits()
    make_app(segmenter, model, bounds, index).queue(max_size=bounds.waiting).launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size=int(bounds.megabytes * 1e6),
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )


def segment_tab(page: Page) -> None:
    """One picture: words, overlay, regions, methods side by side, downloads, and the commands that do the same."""
    visit = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(label="Picture", sources=["upload", "clipboard"], height=260, elem_id="picture")
            picture.preprocess = _file_of  # type: ignore[method-assign, assignment]
            draw = gr.Button("Draw a scene", size="sm", elem_id="draw")
            words = gr.Dropdown(
                label="Words", info="Enter after each; 'sofa|couch' are two names of one thing.", multiselect=True,
                allow_custom_value=True, elem_id="words",
            )  # fmt: skip
            with gr.Accordion("Method and settings", open=False):
                method = gr.Dropdown(page.methods, value=page.segmenter.settings.method_name, label="Method")
                beside = gr.Dropdown([NONE, *page.methods], value=NONE, label="Beside it", elem_id="beside")
                refine = gr.Checkbox(bool(page.own("refine")), label="Refine along edges (PAMR)")
                background = gr.Checkbox(
                    page.segmenter.settings.background, label="Background: what is none of the words"
                )
                threshold = gr.Slider(0, 1, page.own("threshold") or 0, label="Leave out scores below", step=0.01)
        with gr.Column(scale=5, min_width=300):
            status = gr.HTML(_status("Drop a picture and type what may be in it, or draw a scene."), elem_id="status")
            with gr.Row():
                first = _shown("Result", "first")
                second = _shown("Beside it", "second", visible=False)
            legend = gr.HTML(elem_id="legend")
            place = gr.HTML(elem_id="place")
            with gr.Row():
                hide = gr.Button("Hide region", size="md", elem_id="hide")
                rename_to = gr.Textbox(show_label=False, placeholder="another label", container=False, elem_id="name")
                rename = gr.Button("Rename region", size="md", elem_id="rename")
                undo = gr.Button("Undo", size="md", elem_id="undo")
            with gr.Row():
                style = gr.Radio([FILL, OUTLINE], value=FILL, label="Regions as", elem_id="style")
                opacity = gr.Slider(0, 1, 0.55, step=0.05, label="Opacity", elem_id="opacity")
                heat = gr.Dropdown([NONE], value=NONE, label="Heat map of", elem_id="heat")
            with gr.Accordion("Download", open=False, elem_id="download"):
                with gr.Row():
                    format = gr.Dropdown(list_formats(), value="png", label="Format", elem_id="format")
                    make = gr.Button("Make the file", elem_id="make")
                file = gr.File(label="File", elem_id="file", height=90)
            with gr.Accordion("The same in Python and on the command line", open=False, elem_id="same"):
                python = gr.Code(language="python", label="Python", interactive=False, wrap_lines=True)
                command = gr.Code(language="shell", label="Command line", interactive=False, wrap_lines=True)

    chosen: list[Any] = [words, method, beside, refine, background, threshold]
    drawing: list[Any] = [style, opacity, heat]
    pictures = [first, second, legend]

    def changes_of(method: str, refine: bool, background: bool, threshold: float) -> dict[str, Any]:
        changes = {
            "method": method,
            "refine": refine,
            "background": background,
            "threshold": threshold or False,
        }
        return {name: value for name, value in changes.items() if page.own(name) != value}

    def drawn(visit: Visit, other: Segmentation | None, style: str, opacity: float, heat: str) -> list[Any]:
        def one(result: Segmentation) -> PIL.Image.Image:
            if heat in result.labels:
                return enlarged(result.heatmap(heat))[0]
            how: Any = "outline" if style == OUTLINE else "fill"
            picture = result.overlay(opacity=opacity, style=how, legend=False)
            return enlarged(outlined(picture, visit.selected))[0]

        shown = visit.shown
        heat = heat if heat in shown.labels and shown.scores is not None else NONE
        right = gr.update(value=None, visible=False)
        if other is not None:
            right = gr.update(value=one(other), visible=True, label=_method(other))
        return [gr.update(value=one(shown), label=_method(shown)), right, _legend(shown)]

    def ask(
        visit: Visit | None, words: list[str], method: str, beside: str, refine: bool, background: bool,
        threshold: float, style: str, opacity: float, heat: str,
    ) -> dict[Any, Any]:  # fmt: skip
        typed = [word.strip() for entry in words or [] for word in entry.split(",") if word.strip()]
        if visit is None or visit.picture is None or not typed:
            missing = "a picture" if visit is None or visit.picture is None else "words: what may be in the picture"
            return {status: _status(f"Give {missing}."), first: None, legend: "", place: ""}
        changes = changes_of(method, refine, background, threshold)
        question = (typed, changes, beside)
        if question == visit.question:  # an event of what this page itself wrote into the words
            return {status: gr.skip()}
        start = time.perf_counter()
        result = page.segment(visit.picture, typed, changes)
        seconds = time.perf_counter() - start
        beside_it = None if beside == NONE else page.segment(visit.picture, typed, {**changes, "method": beside})
        visit.answer(result, beside_it)
        visit.question = question
        labels = [NONE, *result.labels]
        return {
            **dict(zip(pictures, drawn(visit, visit.other, style, opacity, heat), strict=True)),
            status: _status(f"{len(result.labels)} labels, {page.segmenter.device}, {1000 * seconds:.0f} ms"),
            words_: gr.update(value=typed),
            heat_: gr.update(choices=labels, value=heat if heat in labels else NONE),
            place: "",
            visit_: visit,
            python: python_of(page, visit, typed, changes),
            command: command_of(page, visit, typed, changes),
        }

    words_, heat_, visit_ = words, heat, visit
    answers = [*pictures, status, words, heat, place, visit, python, command]

    def opened(visit: Visit | None, file: tuple[str, str] | None, *choices: Any) -> dict[Any, Any]:
        visit = visit or Visit()
        if file is None:
            visit.take(None)
            return {visit_: visit, status: _status("Give a picture."), first: None, legend: "", place: ""}
        path, name = file
        page.open(visit, Path(path).read_bytes(), name)
        return {visit_: visit, **ask(visit, *choices)}

    def scene(visit: Visit | None, words: list[str], *choices: Any) -> dict[Any, Any]:
        visit = visit or Visit()
        labels = page.draw(visit)
        return {picture: visit.picture, **ask(visit, labels, *choices)}

    def redraw(visit: Visit | None, *how: Any) -> dict[Any, Any]:
        if visit is None or visit.result is None:
            return {status: _status("Give a picture and words first.")}
        return dict(zip(pictures, drawn(visit, visit.other, *how), strict=True))

    def clicked(visit: Visit | None, style: str, opacity: float, heat: str, event: gr.SelectData) -> dict[Any, Any]:
        if visit is None or visit.result is None:
            return {place: ""}
        scale = enlarged(visit.result.picture)[1] if visit.result.picture is not None else 1
        x, y = (int(value) // scale for value in event.index)
        found = page.select(visit, x, y)
        if found is None:
            return {place: ""}
        best = ", ".join(f"{html.escape(word)} {100 * score:.0f} %" for word, score in found.best)
        name = "no label" if found.label is None else html.escape(found.label)
        return {
            **redraw(visit, style, opacity, heat),
            place: f"<b>{name}</b>, {100 * found.area:.1f} % of the picture, is selected. At {x}, {y}: {best}.",
        }

    def edited(label: Callable[[str], str | None]) -> Callable[..., dict[Any, Any]]:
        def change(visit: Visit | None, name: str, *how: Any) -> dict[Any, Any]:
            visit = visit or Visit()
            page.edit(visit, label(name))
            visit.selected = None
            return {**redraw(visit, *how), visit_: visit}

        return change

    def undone(visit: Visit | None, *how: Any) -> dict[Any, Any]:
        if visit is not None and visit.edits:
            visit.edits.pop()
        return redraw(visit, *how)

    def exported(visit: Visit | None, format: str) -> dict[Any, Any]:
        return {file: str(page.export(visit or Visit(), format))}

    def on(trigger: Any, do: Callable[..., dict[Any, Any]], inputs: list[Any], outputs: list[Any]) -> None:
        @functools.wraps(do)  # gradio looks for SelectData in the annotations
        def said(*values: Any) -> dict[Any, Any]:
            try:
                return do(*values)
            except SclipError as error:
                return {status: _status(str(error), wrong=True)}

        gr.on(trigger, said, inputs, list({*outputs, status}), show_progress="minimal", api_visibility="private")

    on(picture.input, opened, [visit, picture, *chosen, *drawing], answers)
    on(draw.click, scene, [visit, *chosen, *drawing], [*answers, picture])
    on([words.change, *(box.input for box in chosen[1:])], ask, [visit, *chosen, *drawing], answers)
    on([box.input for box in drawing], redraw, [visit, *drawing], pictures)
    on(first.select, clicked, [visit, *drawing], [*pictures, place, visit])
    on(hide.click, edited(lambda name: None), [visit, rename_to, *drawing], [*pictures, visit])
    on([rename.click, rename_to.submit], edited(str), [visit, rename_to, *drawing], [*pictures, visit])
    on(undo.click, undone, [visit, *drawing], pictures)
    on(make.click, exported, [visit, format], [file])


def search_tab(page: Page) -> None:
    """The pictures of a collection that hold something, and where in them."""
    assert page.index is not None, "without an index there is no tab"
    with gr.Row():
        words = gr.Textbox(label="Words", info="Between commas all have to be there; '|' joins synonyms.", scale=3)
        without = gr.Textbox(label="Without", info="What shall not be there.", scale=2)
        top = gr.Slider(1, MOST_FOUND, 20, step=1, label="Pictures", scale=1, min_width=260)
    find = gr.Button("Search", elem_id="find")
    status = gr.HTML(_status(f"{len(page.index)} pictures."), elem_id="found-status")
    found = gr.Gallery(
        label="Found", columns=4, object_fit="contain", height="auto", format="jpeg", elem_id="found",
        buttons=["download", "fullscreen"],
    )  # fmt: skip

    def search(words: str, without: str, top: int) -> tuple[Any, str]:
        start = time.perf_counter()
        try:
            pictures = page.search(words, without, int(top))
        except SclipError as error:
            return gr.skip(), _status(str(error), wrong=True)
        return pictures, _status(f"{len(pictures)} pictures in {1000 * (time.perf_counter() - start):.0f} ms.")

    gr.on(
        [find.click, words.submit, without.submit], search, [words, without, top], [found, status],
        show_progress="minimal", api_visibility="private",
    )  # fmt: skip


def _file_of(payload: Any) -> tuple[str, str] | None:
    """Path and name of an uploaded file, unread: what is wrong with it is said in this package's words."""
    return payload and payload.path and (payload.path, payload.orig_name or Path(payload.path).name)


def _shown(label: str, name: str, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, format="png", elem_id=name, elem_classes="sclip-picture", visible=visible,
        buttons=["fullscreen"],
    )  # fmt: skip


def _method(result: Segmentation) -> str:
    return str(result.settings["method"])


def _status(text: str, wrong: bool = False) -> str:
    return f'<div class="sclip-status{" wrong" if wrong else ""}">{html.escape(text)}</div>'


def _legend(result: Segmentation) -> str:
    """The labels that occur, the largest first, with their colours and shares."""
    colours = dict(zip(result.labels, colours_of(result.labels), strict=True))
    shares = sorted(((share, label) for label, share in result.areas().items() if share), reverse=True)
    entries = []
    for share, label in shares:
        colour = "transparent" if is_neutral(label) else "rgb({}, {}, {})".format(*colours[label])
        entries.append(f'<span><i style="background: {colour}"></i>{html.escape(label)} {percent(share)}</span>')
    return f'<div class="sclip-legend">{"".join(entries)}</div>'
