"""``sclip methods``: what there is."""

from __future__ import annotations

import typer


def methods() -> None:
    """List the methods: what each computes, its options with their defaults, its paper."""
    import dataclasses

    from ..methods import METHODS, list_methods

    for name in list_methods():
        cls = METHODS[name]
        own = {f.name: f.default for f in dataclasses.fields(cls) if f.repr and f.name != "position_resize"}
        options = ", ".join(
            f"{key}={value!r}" for key, value in own.items() if not isinstance(value, type(dataclasses.MISSING))
        )
        typer.echo(f"{name}\n    {cls.summary}\n    options: {options}\n    {cls.source}")
