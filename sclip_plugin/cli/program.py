"""The program ``sclip``: its commands, and the one place where mistakes end in a sentence.

Nothing heavy is imported before a command needs it, so ``--help`` is quick.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import SclipError
from .anomaly import anomaly
from .app import app as web_page
from .cache import cache
from .compare import compare
from .convert import convert_app
from .demo import demo
from .evaluate import eval_app
from .geotiff import geotiff
from .index import index
from .label import label
from .listing import models, presets
from .memory import memory_app
from .methods import methods
from .names import names
from .presence import presence_app
from .ray import RayCommand
from .search import search
from .segment import segment
from .serve import serve
from .terminal import tell
from .tune import tune
from .video import video

app = typer.Typer(
    help="Segment pictures into any classes named in words, with a frozen CLIP and no training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    segment, names, tune, label, anomaly, compare, geotiff, index, search, video, demo, methods, models, presets,
    cache, web_page, serve,
):  # fmt: skip
    app.command(cls=RayCommand if command in (segment, index) else None)(command)
app.add_typer(eval_app, name="eval")
app.add_typer(convert_app, name="convert")
app.add_typer(memory_app, name="memory")
app.add_typer(presence_app, name="presence")
KEPT = {
    "tune": "nothing was written",
    "names": "what was printed stands; words that were embedded wholly are kept",
    "label": "nothing was written",
    "anomaly": "finished pictures are kept",
    "compare": "nothing was written",
    "geotiff": "nothing was written",
    "index": "finished pictures are in the index; the same command goes on",
    "build": "finished pictures are in the memory; the same command goes on",
    "video": "nothing was written",
}
"""What Ctrl-C leaves of a long command. ``segment`` and ``eval`` say it themselves."""


def _mannered(part: typer.Typer) -> None:
    """Help as flowing text, and a line on what an interrupt kept, for all commands of a program."""
    mounted: list[Any] = [*part.registered_commands, part.registered_callback]
    for info in filter(None, mounted):
        if info.callback is not None:
            info.callback.__doc__ = flowing(info.callback.__doc__ or "")
            if kept := KEPT.get(info.callback.__name__):
                info.callback = _interruptible(info.callback, kept)
    for group in part.registered_groups:
        if group.typer_instance is not None:
            _mannered(group.typer_instance)


def _interruptible(command: Callable[..., Any], kept: str) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*values: Any, **options: Any) -> Any:
        try:
            return command(*values, **options)
        except KeyboardInterrupt:
            tell(f"stopped; {kept}.")
            raise typer.Exit(130) from None

    return run


def flowing(text: str) -> str:
    """Paragraphs without line breaks inside, so that a terminal breaks lines where it ends.

    >>> flowing("One sentence\\n    in two lines.\\n\\n    Another.")
    'One sentence in two lines.\\n\\nAnother.'
    """
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


_mannered(app)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False) -> None:
    if version:
        typer.echo(f"sclip_plugin {__version__}")
        raise typer.Exit()


def run() -> None:
    """Run the command line; what users got wrong ends in one sentence, not in a traceback."""
    warnings.showwarning = lambda message, *rest: tell(f"warning: {message}")
    warnings.filterwarnings("ignore", message="Image size")  # Pillow's, of what is refused here
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (SclipError, OSError) as error:
        tell(f"error: {error}")
        sys.exit(2)
