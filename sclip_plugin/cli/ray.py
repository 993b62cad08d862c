"""``--ray [ADDRESS]``: an option that may stand alone, and what it does for ``sclip segment``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import SettingError
from .terminal import say, tell

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Run on Ray: the cluster at this address (HOST:PORT, auto), or 'local'; without an address RAY_ADDRESS, "
        "or a cluster of this machine, or one of its own.",
    ),
]
_ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")


def with_address(arguments: list[str]) -> list[str]:
    """Arguments in which ``--ray`` has its value: the next one only if it looks like an address.

    Example:
        >>> with_address(["--ray", "photos"]), with_address(["photos", "--ray", "auto"])
        (['--ray=', 'photos'], ['photos', '--ray=auto'])
    """
    out: list[str] = []
    for argument in arguments:
        if out and out[-1] == "--ray=" and _ADDRESS.fullmatch(argument):
            out[-1] += argument
        else:
            out.append("--ray=" if argument == "--ray" else argument)
    return out


class RayCommand(TyperCommand):
    """A command with ``--ray``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_address(args))


class RayGroup(TyperGroup):
    """A group that is a command with ``--ray``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_address(args))


def segment_on_ray(
    address: str,
    pictures: list[str],
    labels: Any,
    out: Path,
    settings: dict[str, Any],
    unused: dict[str, Any],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """``sclip segment … --ray``; ``unused`` are options that it does not have."""
    from ..evaluation.progress import shown_progress
    from ..integrations.ray import segment_files
    from .options import quiet_transformers

    for flag, value in unused.items():
        if value:
            raise SettingError(f"{flag} does not go with --ray; leave it out, or segment without Ray.")
    quiet_transformers()
    try:
        with shown_progress("segmenting", quiet=quiet) as report:
            summary = segment_files(
                pictures, labels, out=out, address=address or None, report=report, **options, **settings
            )
    except KeyboardInterrupt:
        tell("stopped; the same command goes on where it was.")
        raise typer.Exit(130) from None
    if as_json:
        counts = {name: getattr(summary, name) for name in ("blocks", "computed", "pictures", "failed")}
        say(json.dumps({"results": str(summary.folder), **counts}))
    elif not quiet and not summary.computed:
        say(f"nothing left to do: all {summary.blocks} blocks are in {summary.folder}")
    elif not quiet:
        pictures_done = f"{summary.pictures} picture{'s' * (summary.pictures != 1)}"
        say(f"{pictures_done} in {summary.computed} of {summary.blocks} blocks -> {summary.folder}")
    if summary.failed:
        tell(f"{summary.failed} failed; their rows have the reason in the column error. --retry looks at them again.")
        raise typer.Exit(1)
