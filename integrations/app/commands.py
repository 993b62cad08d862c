"""The Python and the command line that make what the page shows."""

from __future__ import annotations

import shlex
from typing import Any

from sclip_plugin.text.files import split_labels

from .page import LEARNT, Page, Visit


def python_of(page: Page, visit: Visit, words: list[str], changes: dict[str, Any]) -> str:
    """A program, to copy."""
    labels = [names[0] if len(names) == 1 else names for names in split_labels(",".join(words))]
    options = "".join(f", {name}={value!r}" for name, value in _settings(page, changes).items())
    picture = repr(visit.name) if visit.seed is None else f"sp.draw_scene({visit.seed}, scale=2).picture"
    said = f'sp.Tuned.load("{LEARNT}")' if visit.lessons.learnt else repr(labels)
    return (
        "import sclip_plugin as sp\n\n"
        f"seg = sp.Segmenter.from_pretrained({page.model!r})\n"
        f"result = seg({picture}, {said}{options})\n"
        'result.overlay().save("overlay.png")\n'
    )


def command_of(page: Page, visit: Visit, words: list[str], changes: dict[str, Any]) -> str:
    """A command line, to copy."""
    settings = _settings(page, changes)
    parts = ["sclip", "segment", visit.name, "--model", page.model, "--labels"]
    parts.append(f"@{LEARNT}" if visit.lessons.learnt else ", ".join(words))
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool) and name != "threshold":
            parts.append(f"--{flag}" if value else f"--no-{flag}")
        elif name == "refine" or value is False:
            parts += ["--set", f"{name}={str(value).lower()}"]
        else:
            parts += [f"--{flag}", str(value)]
    return shlex.join([*parts, "--out", "out"])


def _settings(page: Page, changes: dict[str, Any]) -> dict[str, Any]:
    """What differs from the model's own settings: by the page's options, and by the visitor."""
    ours = page.segmenter.settings
    settings = {"method": ours.method} if ours.masks is None else {"method": ours.method, "masks": ours.masks}
    if ours.steps:
        settings["steps"] = ", ".join(map(str, ours.steps))
    return {**settings, **{name: value for name, value in changes.items() if page.own(name) != value}}
