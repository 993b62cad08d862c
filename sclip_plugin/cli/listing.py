"""``sclip presets``, ``sclip models``: what there is, a line each."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..defaults import DEFAULT_MODEL
from .terminal import AsJson, say, tell


def presets(as_json: AsJson = False) -> None:
    """List the presets: the settings, and the classes where it has some, of a paper's benchmark.

    Example: sclip presets
    """
    from ..protocols.presets import list_presets, load_preset

    for name in list_presets():
        preset = load_preset(name)
        method = preset.settings.plain()["method"]
        say(json.dumps({"preset": name, "method": method}) if as_json else f"{name:<36} {method}")


def models(as_json: AsJson = False) -> None:
    """List models by name, as --model takes them: the demo, and those that open_clip ships where it is installed.

    Any hub id or folder of transformers is a name, too. Weights are fetched when a model is first used; one that this
    program can't change says so then.

    Example: sclip models
    """
    for name, source in _names():
        say(json.dumps({"model": name, "source": source}) if as_json else f"{name:<68} {source}")


def _names() -> Iterator[tuple[str, str]]:
    yield "demo", "ships with sclip_plugin; knows drawn things only"
    yield DEFAULT_MODEL, "transformers; the default"
    try:
        import open_clip
    except ImportError:
        tell("those of open_clip are not listed: pip install 'sclip_plugin[open_clip]'")
        return
    for architecture, weights in open_clip.list_pretrained():
        yield f"open_clip:{architecture}/{weights}", "open_clip"
