"""The options of settings, for every command: made of the fields of `Settings` and of its short forms."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..settings import Settings
from .options import Labelled, parse_changes

LOOKING, WORDS, ANSWERING = "Looking at pictures", "Words", "Answering"
OF_WORDS = ("templates", "background", "ignore")
FLAGS = {"resize_short_side": "--resize", "method": "--method"}
SHORT = {
    "threshold": (float, "Leave pixels with a lower best score unlabelled: adds the step threshold."),
    "present": (
        str,
        "Words that are not in a picture paint nothing: yes, a threshold such as 0.5, a file of 'sclip presence "
        "build', or no. Default: yes for models that ship with what it needs, as demo does.",
    ),
    "refine": (bool, "Sharpen scores along the picture's colours: adds the steps pamr and specks."),
}


@dataclass(frozen=True)
class Asked:
    """The settings of a command line.

    Fields:
        preset: by name, or None.
        changes: what differs from the preset's settings, or from the model's.
    """

    preset: str | None
    changes: dict[str, Any]

    def settings(self) -> Settings:
        """The preset's settings with the changes; the model's own sizes are not known here."""
        from ..protocols.presets import load_preset

        base = Settings() if self.preset is None else load_preset(self.preset).settings
        return base.changed(**self.changes)

    def check_labels(self, labels: Labelled | None, named: bool = False) -> None:
        """Labels that do not go together, or are missing, are said before a model is fetched.

        Args:
            named: the command takes ``@auto``.
        """
        from ..text.labels import parse_labels
        from ..text.wordlist import as_auto

        if named and (auto := as_auto(labels)) is not None:
            auto.words(), auto.vocabulary((), self.settings().background)
        elif labels is not None:
            parse_labels(labels, self.settings().background)
        elif self.preset is None:
            raise typer.BadParameter("Missing option '--labels' / '-l': names of the classes; or give a --preset.")


def with_settings(*left_out: str, preset: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: gives a command an option for each setting. The command gets what was given as ``asked``, an `Asked`.

    Misspelt names and values out of range raise an error before a model is loaded.

    Args:
        left_out: settings and short forms that the command has no use for.
        preset: the command takes ``--preset``.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        added = _options(left_out, preset)

        def run(**given: Any) -> Any:
            said = {name: given.pop(name, None) for name in added}
            changes = parse_changes(said.pop("change") or [])
            if said.get("present") is not None:  # yes, no and numbers, as YAML reads them, or a file
                changes = {**parse_changes([f"present={said.pop('present')}"]), **changes}
            named = said.pop("preset", None)
            asked = Asked(named, {**{name: v for name, v in said.items() if v is not None}, **changes})
            asked.settings()
            return command(asked=asked, **given)

        hints = typing.get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters.values()
        parameters = [p.replace(annotation=hints[p.name]) for p in own if p.name != "asked"]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in added.items()
        ]
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _options(left_out: tuple[str, ...], preset: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if preset:
        what = "Settings of a paper, and its classes if --labels names none: 'sclip/voc21'; see 'sclip presets'."
        options["preset"] = Annotated[str | None, typer.Option("--preset", help=what, rich_help_panel=LOOKING)]
    for field in dataclasses.fields(Settings):
        if field.name not in left_out:
            options[field.name] = Annotated[_plain_type(field), setting(field.name)]
    for name, (kind, text) in SHORT.items():
        if name not in left_out:
            options[name] = Annotated[kind | None, typer.Option(help=text, rich_help_panel=ANSWERING)]
    what = "Another setting, or an option of the method: --set std=4."
    options["change"] = Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=what, rich_help_panel=ANSWERING)
    ]
    return options


def setting(name: str, *flags: str) -> typer.models.OptionInfo:
    """The option of a setting: its help and range are those of the field of `Settings`."""
    field = {f.name: f for f in dataclasses.fields(Settings)}[name]
    text = field.metadata["help"]
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    truth = field.type == "bool"
    if name not in ("resize_short_side", "window") and isinstance(field.default, (str, float)):
        text += f"; default: {field.default}"
    return typer.Option(
        *(flags or (f"{flag}/--no-{flag[2:]}" if truth else flag,)),
        help=f"{text[0].upper()}{text[1:]}.",
        min=field.metadata["low"],
        max=field.metadata["high"],
        rich_help_panel=WORDS if name in OF_WORDS else LOOKING if field.metadata["features"] else ANSWERING,
    )


def _plain_type(field: dataclasses.Field[Any]) -> Any:
    """What a command line reads: numbers and truth values as they are, everything else as text."""
    for kind in (bool, int, float):
        if str(field.type).partition(" ")[0] == kind.__name__:
            return kind | None
    return str | None
